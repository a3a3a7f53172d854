// Search: by a photograph that is given, one of the library, or a box of either. The address says which.
import {address, ask, checkSize, info} from "./api.js"
import {BoxEditor} from "./box.js"
import {$, attempt, badge, counted, el, linkJson, nameOf, percent, picker, say, thumbnail} from "./ui.js"
const FIRST = 60 // hits that are asked for at first, and then four times as many
const MOST = 1000
const SHOWN = 24 // hits that are shown at a time
const SHORT = {same: "Same place", unsure: "Perhaps", different: "Different"}
const SLOW = 2500 // milliseconds, after which a person wants to know why

const editor = new BoxEditor($("canvas"), [...$("box").querySelectorAll("input")])
let shown = 0 // of the hits of `found`
let found = null
let asking = null // what ends the question that is being asked

const wanted = () => Object.fromEntries(new URLSearchParams(location.search))

/** Show what the address says. */
async function load() {
  const {id, box} = wanted()
  $("search").hidden = true
  $("start").hidden = Boolean(id)
  if (id) return show(await answered("/v1/search", {params: {id, box, top_k: FIRST}}), box)
  const {images} = await info()
  $("library-size").textContent = images ? `${counted(images, "photograph")} in the library.` : "The library is empty: add photographs to it first."
}

/** Ask for hits; a new question ends the one before it. */
async function answered(path, options) {
  asking?.abort()
  asking = new AbortController()
  say("Searching ...")
  document.body.ariaBusy = "true"
  const late = setTimeout(() => say("Still searching. The first photograph loads the model, which can take a minute."), SLOW)
  try {
    return await ask(path, {...options, signal: asking.signal})
  } catch (error) {
    $("start").hidden = Boolean(found) && !$("search").hidden // something to go on with
    throw error
  } finally {
    clearTimeout(late)
    document.body.ariaBusy = "false"
  }
}

function show(answer, box) {
  found = answer
  shown = 0
  $("hits").replaceChildren()
  $("start").hidden = true
  $("search").hidden = false
  $("query-title").textContent = nameOf(found.query)
  editor.show(found.query, box ? box.split(",").map(Number) : null)
  linkJson(address("/v1/search", {id: found.query.ref, box, top_k: FIRST}))
  const same = found.hits.filter((hit) => hit.judgement?.verdict === "same").length
  const turned = found.rotation ? ` Your photograph was turned by ${found.rotation} degrees to find them.` : ""
  const what = same ? `${counted(same, "photograph")} of the same place` : "No photograph that surely shows the same place"
  say("")
  $("hint").textContent = `${what}, of ${found.images.toLocaleString("en")} in the library.${turned}`
  $("whole").hidden = !box
  reveal()
}

/** Show the next hits; ask for more where those that are known are at an end. */
function reveal() {
  const next = found.hits.slice(shown, shown + SHOWN)
  $("hits").append(...next.map(card))
  shown += next.length
  $("more").hidden = shown >= found.hits.length && !mayHaveMore()
}

const mayHaveMore = () => found.hits.length >= FIRST && found.hits.length < Math.min(MOST, found.images - 1)

async function more() {
  if (shown >= found.hits.length && mayHaveMore()) {
    const top_k = Math.min(MOST, 4 * found.hits.length)
    const {hits} = await answered("/v1/search", {params: {id: found.query.ref, box: wanted().box, top_k}})
    if (hits.length <= shown) found.images = 0 // there are no more
    else found.hits = hits
  }
  reveal()
  say("")
}

function card({photo, judgement, region, rank}) {
  const compare = address("/compare", {a: found.query.ref, b: photo.ref})
  const sure = judgement?.probability ?? null
  return el("li", {class: "card"},
    el("a", {href: compare, "aria-label": `Compare with ${nameOf(photo)}`, tabindex: "-1"}, thumbnail(photo, region)),
    judgement ? el("p", {class: "line"}, badge(judgement.verdict, SHORT), sure === null ? "" : el("span", {}, percent(sure))) : el("p", {class: "quiet"}, "Not verified"),
    judgement && el("p", {class: "quiet"}, inliersOf(judgement)),
    el("p", {class: "name", title: nameOf(photo)}, `${rank}. ${nameOf(photo)}`),
    el("p", {class: "row"}, el("a", {href: compare}, "Compare"), el("a", {href: address("/", {id: photo.ref})}, "Search by it")))
}

const inliersOf = ({coarse, fine}) => counted(coarse.inliers, "inlier") + (fine ? ` · ${counted(fine.details, "detail")}` : "")

const go = (params) => {
  history.pushState(null, "", address("/", params))
  return attempt(load)
}

const take = ([file]) => attempt(async () => {
  await checkSize(file)
  const form = new FormData()
  form.append("file", file)
  form.append("top_k", FIRST)
  const answer = await answered("/v1/search", {method: "POST", form})
  history.pushState(null, "", address("/", {id: answer.query.ref}))
  show(answer, null)
  $("found-title").focus()
})

picker("pick", take, document)
picker("again", take)
$("box").addEventListener("submit", (event) => {
  event.preventDefault()
  if (editor.box) go({id: found.query.ref, box: editor.box.join(",")})
  else say("Draw a box first: left below right, top below bottom.")
})
$("whole").addEventListener("click", () => go({id: found.query.ref}))
$("more").addEventListener("click", () => attempt(more))
new IntersectionObserver(([seen]) => seen.isIntersecting && !$("more").hidden && attempt(more), {rootMargin: "400px"}).observe($("more"))
addEventListener("popstate", () => attempt(load))
attempt(load)
