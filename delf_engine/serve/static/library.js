// The library: pages of thumbnails, adding with progress, removing, near-copies. The address says page and job.

import {address, ask, follow, info, megabytes, reason} from "./api.js"
import {$, attempt, counted, el, linkJson, nameOf, picker, readonly, say, thumbnail} from "./ui.js"

const PAGE = 48
const SHOWN = 200 // rows of a report
const KINDS = {add: "Adding photographs", duplicates: "Looking for near-copies", recalibrate: "Recalibrating"}
const COPIES = {exact: "The same file", copy: "The same picture, edited or resized", crop: "The second is a crop of the first", embedded: "The second lies in the first", part: "Both share a part", place: "The same place"}

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
  return el("li", {class: "card"}, thumbnail(photo),
    el("p", {}, el("label", {title: name}, box, el("span", {class: "name"}, name))),
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
  $("selected").textContent = selected.size ? `${selected.size} selected` : "Select photographs to compare or remove them."
  $("compare").disabled = selected.size !== 2
  if (!readonly) $("remove").disabled = !selected.size
}

// ------------------------------------------------------------------------------------------------ what changes

async function add(files) {
  const {max_files: most} = await info()
  if (files.length > most) return say(`The server takes ${counted(most, "file")} at a time; choose fewer.`)
  const form = new FormData()
  for (const file of files) form.append("files", file)
  const size = files.reduce((sum, file) => sum + file.size, 0)
  say(`Sending ${counted(files.length, "file")}, ${megabytes(size)} ...`)
  const job = await ask("/v1/images", {method: "POST", form})
  say("")
  return watch(job)
}

const start = (path, json) => async () => watch(await ask(path, {method: "POST", json}))

/** Show a job until it has ended, and what became of it. */
async function watch(job) {
  history.replaceState(null, "", address("/library", {offset: offset || null, job: job.id}))
  $("job").hidden = false
  $("job-title").textContent = KINDS[job.kind]
  $("job-report").replaceChildren()
  $("cancel").hidden = $("progress").hidden = false
  $("cancel").disabled = false
  $("cancel").onclick = () => attempt(async () => {
    $("cancel").disabled = true
    await ask(`/v1/jobs/${job.id}`, {method: "DELETE"})
  })
  $("job-title").focus()
  show(job)
  report(await follow(job.id, show))
  if (job.kind === "add") await load()
}

function show({state, done, total}) {
  const bar = $("progress")
  if (total) Object.assign(bar, {max: total, value: done})
  else bar.removeAttribute("value")
  $("job-said").textContent = state === "queued" ? "Waiting for others." : total ? `${done} of ${total}` : "Begins ..."
}

function report(job) {
  const ends = {done: "Done", cancelled: "Cancelled: what was done by then stays", interrupted: "The server that did it is gone; what was done by then stays"}
  $("cancel").hidden = $("progress").hidden = true
  const counts = job.kind === "duplicates" ? [counted(job.copies.length, "pair"), job.failed.length && `${job.failed.length} could not be read`]
    : [`${job.added.length} added`, job.skipped.length && `${job.skipped.length} already there`, job.failed.length && `${job.failed.length} failed`]
  $("job-said").textContent = job.state === "failed" ? reason(job.error) : `${ends[job.state]}: ${counts.filter(Boolean).join(", ")}.`
  const rows = job.failed.slice(0, SHOWN).map(({name, reason: why}) => el("tr", {}, el("td", {}, name), el("td", {}, why)))
  const failed = rows.length ? el("table", {}, el("caption", {class: "quiet"}, "Not added, and why"), el("tbody", {}, el("tr", {}, el("th", {scope: "col"}, "File"), el("th", {scope: "col"}, "Reason")), ...rows)) : null
  const copies = el("ul", {class: "pairs"}, ...job.copies.slice(0, SHOWN).map(({a, b, kind}) => el("li", {},
    ...[a, b].map((ref) => thumbnail({ref, name: null})),
    el("div", {class: "said"}, el("p", {}, COPIES[kind] ?? kind), el("p", {class: "quiet"}, [a, b].map((ref) => nameOf({ref})).join(" and "))),
    el("a", {href: address("/compare", {a, b})}, "Compare"))))
  $("job-report").replaceChildren(...[failed, job.copies.length ? copies : null, el("p", {}, el("a", {class: "json", href: `/v1/jobs/${job.id}`}, "JSON of this job"))].filter(Boolean))
}

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
  const work = load()
  if (!readonly) {
    const {folders} = await info()
    $("folders").replaceChildren(...folders.map((name) => el("button", {type: "button", onclick: () => attempt(start("/v1/folders", {folder: name}))}, `Add the folder ${name}`)))
    const asked = new URLSearchParams(location.search).get("job")
    const job = asked ? await ask(`/v1/jobs/${encodeURIComponent(asked)}`) : (await ask("/v1/jobs")).find((each) => ["queued", "running"].includes(each.state) && each.kind !== "recalibrate")
    await work
    if (job) return watch(job)
  }
  return work
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
