// Two photographs side by side: what agrees, one over the other, the evidence, and what a person says of them.
import {address, ask, checkSize, pictureOf} from "./api.js"
import {Overlay} from "./overlay.js"
import {$, attempt, badge, counted, el, linkJson, nameOf, percent, picker, readonly, say, svg} from "./ui.js"
const SIDE = 1024 // pixels of the pictures that are shown
const UNIT = 1000 // height of both photographs in the drawing, or their width where they stand on each other
const NEAR = 60 // of these units, from a pointer to the end of a match
const PATCH = {matches: 0.12, details: 0.06} // of the longer side of a photograph
const KINDS = [...document.getElementsByName("kind")]
const narrow = matchMedia("(max-width: 40rem)")

const DECIDED = {
  details: "Decided by fine evidence: details that agree to the pixel.",
  coarse: "Decided by coarse evidence: learned features that agree.",
  inliers: "Decided by the number of inliers: there is no calibration for them.",
}
const MODELS = {affine: "affine transform", homography: "homography", fundamental: "fundamental matrix"}

const given = Object.fromEntries(new URLSearchParams(location.search))
const {a, b} = given
let pair = null
let kind = "matches" // coarse; or the details of fine evidence
let drawing = null // both photographs, and where matches end in it
let picked = null // the number of the match that is marked
let pictures = [] // both, decoded, to cut patches from

async function load() {
  $("choose").hidden = Boolean(a && b)
  if (!a || !b) return choose()
  say("Comparing ...")
  pair = await ask("/v1/verify", {params: {a, b}}).catch((error) => {
    if (error.words && !error.passing) choose(true)
    throw error
  })
  linkJson(address("/v1/verify", {a, b}))
  say("")
  $("pair").hidden = false
  const {judgement} = pair
  const sure = judgement.probability
  $("answer").replaceChildren(badge(judgement.verdict), sure === null ? "" : el("span", {}, percent(sure)))
  $("why").textContent = `${judgement.why.charAt(0).toUpperCase()}${judgement.why.slice(1)}.`
  const limit = judgement.accept === null ? "" : ` It takes ${percent(judgement.accept)} to be called the same place.`
  $("decided").textContent = DECIDED[judgement.decided_by] + limit
  $("names").replaceChildren(...[["First", pair.a], ["Second", pair.b]].map(([side, photo]) => el("span", {}, `${side}: ${nameOf(photo)} (`, el("a", {href: address("/", {id: photo.ref}), "aria-label": `Search by the ${side.toLowerCase()}`}, "search by it"), ")")))
  evidence(judgement)
  offer()
  narrow.addEventListener("change", draw)
  inspect()
  lay(judgement)
  if (!readonly) await opinions()
}

/** Let both be chosen; after a comparison that was refused, those that are not there must be. */
function choose(refused = false) {
  const files = {}
  $("choose").hidden = false
  for (const side of ["a", "b"]) {
    const image = given[side] && show(side, pictureOf(given[side], 384))
    if (image && refused) image.addEventListener("error", () => { image.remove(); delete given[side] })
    picker(`pick-${side}`, ([file]) => attempt(async () => {
      await checkSize(file)
      files[side] = file
      show(side, URL.createObjectURL(file))
      if ((files.a ?? given.a) && (files.b ?? given.b)) await send(files)
    }), $(`pick-${side}`))
  }
}

function show(side, source) {
  const root = $(`pick-${side}`)
  root.querySelector("img")?.remove()
  const image = el("img", {src: source, alt: `${side === "a" ? "First" : "Second"} photograph`})
  root.prepend(image)
  return image
}

async function send(files) {
  const form = new FormData()
  for (const side of ["a", "b"]) form.append(...(files[side] ? [`file_${side}`, files[side]] : [side, given[side]]))
  say("Comparing ...")
  const answer = await ask("/v1/verify", {method: "POST", form})
  location.assign(address("/compare", {a: answer.a.ref, b: answer.b.ref}))
}

/** Let coarse or fine matches be chosen, of those that there are. */
function offer() {
  for (const each of KINDS) {
    const {length} = pair[each.value]
    each.disabled = !length
    each.nextElementSibling.textContent = `${length.toLocaleString("en")} ${each.value === "matches" ? "coarse" : "fine"}`
  }
  const first = KINDS.find((each) => !each.disabled)
  if (!first) $("lines-title").textContent = "Nothing agrees"
  $("kinds").hidden = !first
  if (first) first.checked = true
  use(first?.value ?? "matches")
}

/** Show the matches of a kind, and the patches of the first. */
function use(chosen) {
  [kind, picked] = [chosen, null]
  draw()
  const {length} = pair[kind]
  $("match").hidden = !length
  Object.assign($("which"), {max: length, value: 1})
  if (length) patches(0)
}

/** Draw both photographs, beside or on each other, and a line for each match. */
function draw() {
  const scale = (photo) => UNIT / (narrow.matches ? photo.width : photo.height)
  const [s, t] = [scale(pair.a), scale(pair.b)]
  const [width, height] = [pair.a.width * s, pair.a.height * s]
  const [left, top] = narrow.matches ? [0, height + 16] : [width + 16, 0]
  drawing = {ends: pair[kind].map(([x, y, u, v]) => [x * s, y * s, left + u * t, top + v * t])}
  const picture = (photo, x, y, k) => svg("image", {href: pictureOf(photo.ref, SIDE), x, y, width: photo.width * k, height: photo.height * k, preserveAspectRatio: "none"})
  drawing.root = svg("svg", {viewBox: `0 0 ${left + pair.b.width * t} ${top + pair.b.height * t}`, role: "img", "aria-label": `${nameOf(pair.a)} and ${nameOf(pair.b)}, ${counted(pair[kind].length, kind === "matches" ? "coarse line" : "fine line")} between what agrees`},
    picture(pair.a, 0, 0, s), picture(pair.b, left, top, t),
    svg("g", {}, ...drawing.ends.map(([x1, y1, x2, y2]) => svg("line", {x1, y1, x2, y2}))))
  drawing.root.addEventListener("pointermove", point)
  drawing.root.addEventListener("pointerdown", point)
  $("lines").replaceChildren(drawing.root)
  if (picked !== null) pick(picked)
}

/** Choose the match whose end is nearest to a pointer. */
function point(event) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.root.getScreenCTM().inverse())
  const far = drawing.ends.map(([x, y, u, v]) => Math.min(Math.hypot(x - at.x, y - at.y), Math.hypot(u - at.x, v - at.y)))
  const nearest = far.indexOf(Math.min(...far))
  if (far[nearest] <= NEAR && Number($("which").value) !== nearest + 1) {
    $("which").value = nearest + 1
    pick(nearest)
  }
}

async function inspect() {
  pictures = await Promise.all([pair.a, pair.b].map(async (photo) => {
    const image = new Image()
    image.src = pictureOf(photo.ref, SIDE)
    await image.decode().catch(() => {})
    return image
  }))
  if (pair[kind].length) patches(picked ?? 0)
}

/** Mark a match, and show the patches of it. */
function pick(index) {
  picked = index
  const [x1, y1, x2, y2] = drawing.ends[index]
  drawing.root.querySelector(".hot")?.remove()
  drawing.root.append(svg("g", {class: "hot"}, svg("line", {x1, y1, x2, y2}), svg("circle", {cx: x1, cy: y1, r: 14}), svg("circle", {cx: x2, cy: y2, r: 14})))
  patches(index)
}

function patches(index) {
  const match = pair[kind][index]
  const [x, y, u, v] = match
  $("which-said").textContent = `${index + 1} of ${pair[kind].length}`
  const size = PATCH[kind] * Math.max(pair.a.width, pair.a.height)
  patch("a", pair.a, x, y, size)
  patch("b", pair.b, u, v, size * growth(match))
}

function patch(side, photo, x, y, size) {
  const canvas = $(`patch-${side}`)
  const image = pictures[side === "a" ? 0 : 1]
  canvas.setAttribute("aria-label", `Patch of ${nameOf(photo)} around ${Math.round(x)}, ${Math.round(y)}`)
  if (!image?.naturalWidth) return
  const k = image.naturalWidth / photo.width
  const pen = canvas.getContext("2d")
  pen.clearRect(0, 0, canvas.width, canvas.height)
  pen.drawImage(image, (x - size / 2) * k, (y - size / 2) * k, size * k, size * k, 0, 0, canvas.width, canvas.height)
}

/** How much larger things are in the second photograph: by the match that lies farthest from one, in the first. */
function growth([x, y, u, v]) {
  const away = pair[kind].map(([p, q, r, s]) => [Math.hypot(p - x, q - y), Math.hypot(r - u, s - v)])
  const [here, there] = away.reduce((far, each) => (each[0] > far[0] ? each : far))
  return here > 1 && there > 1 ? there / here : 1
}

function lay({transform}) {
  // It maps points to points, as affine maps and homographies do: a fundamental matrix does not end in 1.
  $("over").hidden = transform?.[2][2] !== 1
  $("no-over").textContent = transform ? "A fundamental matrix maps points to lines, so the first cannot be laid over the second." : "No transform from the first to the second was found, so it cannot be laid over it."
  $("no-over").hidden = !$("over").hidden
  if ($("over").hidden) return
  const overlay = new Overlay($("stage"), pair, SIDE)
  const shown = () => overlay.show(document.querySelector("[name=how]:checked").value, $("share").valueAsNumber)
  for (const each of [$("share"), ...document.getElementsByName("how")]) each.addEventListener("input", shown)
  overlay.onswipe = (share) => {
    $("share").value = share
    shown()
  }
  shown()
}

function evidence({coarse, fine, overlay, rotation}) {
  const list = (id, rows) => $(id).replaceChildren(...rows.flatMap(([term, text]) => [el("dt", {}, term), el("dd", {}, text)]))
  const whole = (number) => number.toLocaleString("en")
  list("coarse", [
    ["Inliers", `${whole(coarse.inliers)} of ${whole(coarse.putative)} tentative matches`],
    ["Effective inliers", `${whole(coarse.effective_inliers)}, those that lie apart`],
    ["Similarity", coarse.inlier_similarity.toPrecision(3)],
    ["Model", MODELS[coarse.model] ?? coarse.model],
    ...(rotation ? [["Turned", `the first by ${rotation} degrees`]] : []),
    ...(overlay ? [["Left out", `${whole(overlay)} matches of a frame or caption that both wear`]] : []),
  ])
  list("fine", fine ? [
    ["Details that count", whole(fine.details)],
    ["Tentative matches", whole(fine.putative)],
    ["Agree on two views", whole(fine.epipolar)],
    ["Agree on one plane", whole(fine.planar)],
    ...(fine.small ? [["Note", "a photograph is too small to show details"]] : []),
  ] : [["Details", "were not looked at"]])
}

async function opinions() {
  const kept = (await ask("/v1/verdicts")).find((each) => (each.a === a && each.b === b) || (each.a === b && each.b === a))
  let now = kept?.verdict ?? null
  const before = []
  const buttons = $("say").querySelectorAll("button[value]")
  const shown = (text) => {
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.value === now)))
    $("undo").hidden = !before.length
    $("said").textContent = text
  }
  const put = async (verdict) => {
    if (verdict) await ask("/v1/verdicts", {method: "POST", json: {a, b, verdict}})
    else await ask(address("/v1/verdicts", {a, b}), {method: "DELETE"})
    now = verdict
  }
  buttons.forEach((button) => button.addEventListener("click", () => attempt(async () => {
    const old = now
    if (button.value === old) return
    await put(button.value)
    before.push(old)
    shown("Kept.")
  })))
  $("undo").addEventListener("click", () => attempt(async () => {
    await put(before.at(-1))
    before.pop()
    shown("Undone.")
    if ($("undo").hidden) buttons[0].focus()
  }))
  buttons.forEach((button) => { button.disabled = false }) // a click before would be lost
  shown(now ? "Kept earlier." : "")
}

for (const each of KINDS) each.addEventListener("change", () => use(each.value))
$("which").addEventListener("input", () => pick($("which").valueAsNumber - 1))
attempt(load)
