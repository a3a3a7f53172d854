// The library: pages of thumbnails, adding with progress, removing, near-copies. The address says page and job.
import {address, ask, info, megabytes} from "./api.js"
import {watch} from "./jobs.js"
import {$, attempt, counted, el, linkJson, nameOf, picker, readonly, say, thumbnail} from "./ui.js"
const PAGE = 48
const selected = new Map()
let offset = 0

async function load() {
  offset = Math.max(0, Number.parseInt(new URLSearchParams(location.search).get("offset") ?? "0", 10) || 0)
  const {total, images} = await ask("/v1/images", {params: {offset, limit: PAGE}})
  if (total && offset >= total) return go(Math.floor((total - 1) / PAGE) * PAGE)
  linkJson(address("/v1/images", {offset, limit: PAGE}))
  $("images-title").textContent = counted(total, "photograph")
  $("images").replaceChildren(...images.map(card))
  turn(total)
  select()
  say(total ? "" : "The library is empty.")
}

function card(photo) {
  const name = nameOf(photo)
  const box = el("input", {type: "checkbox", onchange: () => {
    if (box.checked) selected.set(photo.ref, name)
    else selected.delete(photo.ref)
    select()
  }})
  box.checked = selected.has(photo.ref)
  return el("li", {class: "card"},
    el("label", {title: name}, thumbnail(photo, null, ""), box, el("span", {class: "name"}, name)),
    el("p", {class: "row"}, el("a", {href: address("/", {id: photo.ref}), "aria-label": `Search by ${name}`}, "Search by it")))
}

function turn(total) {
  const pages = Math.ceil(total / PAGE)
  const step = (text, to, there) => el("button", {type: "button", disabled: !there, onclick: () => go(to)}, text)
  $("turn").hidden = pages < 2
  $("turn").replaceChildren(step("Previous", offset - PAGE, offset > 0), el("span", {}, `Page ${Math.floor(offset / PAGE) + 1} of ${pages}`), step("Next", offset + PAGE, offset + PAGE < total))
}

function go(to) {
  history.pushState(null, "", address("/library", {offset: Math.max(0, to) || null}))
  scrollTo({top: $("images-title").offsetTop - 16})
  return attempt(load)
}

function select() {
  $("selected").textContent = selected.size ? `${selected.size} selected` : readonly ? "Select two photographs to compare." : "Select photographs to compare or remove them."
  $("compare").disabled = selected.size !== 2
  if (!readonly) $("remove").disabled = !selected.size
}

async function add(files) {
  const {max_files: most} = await info()
  if (files.length > most) return say(`The server takes ${counted(most, "file")} at a time; choose fewer.`)
  const form = new FormData()
  for (const file of files) form.append("files", file)
  const size = files.reduce((sum, file) => sum + file.size, 0)
  say(`Sending ${counted(files.length, "file")}, ${megabytes(size)} ...`)
  const job = await ask("/v1/images", {method: "POST", form})
  say("")
  await shown(job)
}

const start = (path, json) => async () => shown(await ask(path, {method: "POST", json}))

/** Show a job; another try only looks at it again. */
const shown = (job) => attempt(async () => {
  history.replaceState(null, "", address("/library", {offset: offset || null, job: job.id}))
  const {kind} = await watch(job)
  if (kind === "add") await load()
})

async function remove() {
  const names = [...selected.values()]
  $("sure-said").textContent = `${names.slice(0, 5).join(", ")}${names.length > 5 ? ` and ${names.length - 5} more` : ""}. Files that were uploaded here are deleted; others stay where they are.`
  $("sure").returnValue = "no"
  $("sure").showModal()
  await new Promise((resolve) => $("sure").addEventListener("close", resolve, {once: true}))
  if ($("sure").returnValue !== "yes") return
  const {removed} = await ask(address("/v1/images", {id: [...selected.keys()]}), {method: "DELETE"})
  selected.clear()
  await load()
  say(`${counted(removed, "photograph")} removed.`)
}

async function begin() {
  await load()
  if (readonly) return
  const {folders} = await info()
  $("folders").replaceChildren(...folders.map((name) => el("button", {type: "button", onclick: () => attempt(start("/v1/folders", {folder: name}))}, `Add the folder ${name}`)))
  const job = new URLSearchParams(location.search).get("job")
  if (job) await shown(await ask(`/v1/jobs/${encodeURIComponent(job)}`))
}

$("compare").addEventListener("click", () => {
  const [a, b] = selected.keys()
  location.assign(address("/compare", {a, b}))
})
if (!readonly) {
  picker("pick", (files) => attempt(() => add(files)), document)
  $("remove").addEventListener("click", () => attempt(remove))
  $("copies").addEventListener("click", () => attempt(start("/v1/duplicates")))
}
addEventListener("popstate", () => attempt(load))
attempt(begin)
