// A job, followed to its end: progress, cancelling, what became of each photograph.
import {address, ask, reason} from "./api.js"
import {$, attempt, counted, el, nameOf, thumbnail} from "./ui.js"
const SHOWN = 200 // rows of a report
const KINDS = {add: "Adding photographs", duplicates: "Looking for near-copies", recalibrate: "Recalibrating"}
const ENDS = {done: "Done", cancelled: "Cancelled: what was done by then stays", interrupted: "The server that did it is gone; what was done by then stays"}
const COPIES = {exact: "The same file", copy: "The same picture, edited or resized", crop: "The second is a crop of the first", embedded: "The second lies in the first", part: "Both share a part"}

/** Show a job until it has ended, and then what came of it; return its last state. */
export async function watch(job) {
  $("job").hidden = $("cancel").hidden = $("progress").hidden = $("cancel").disabled = false
  $("job-title").textContent = KINDS[job.kind]
  $("job-report").replaceChildren()
  $("cancel").onclick = () => attempt(async () => {
    $("cancel").disabled = true
    await ask(`/v1/jobs/${job.id}`, {method: "DELETE"})
  })
  $("job-title").focus()
  show(job)
  const last = await followed(job.id)
  report(last)
  return last
}

function followed(id) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`/v1/jobs/${id}/events`)
    source.addEventListener("progress", (event) => show(JSON.parse(event.data)))
    source.addEventListener("end", (event) => {
      source.close()
      resolve(JSON.parse(event.data))
    })
    source.onerror = () => ask(`/v1/jobs/${id}`).catch((error) => { // else it connects again by itself
      source.close()
      reject(error)
    })
  })
}

function show({state, done, total}) {
  if (total) Object.assign($("progress"), {max: total, value: done})
  else $("progress").removeAttribute("value")
  $("job-said").textContent = state === "queued" ? "Waiting for others." : total ? `${done} of ${total}` : "Begins ..."
}

function report({id, kind, state, error, added, skipped, failed, copies}) {
  $("cancel").hidden = $("progress").hidden = true
  const counts = [
    kind === "add" && `${added.length} added`, kind === "duplicates" && counted(copies.length, "pair"),
    skipped.length && `${skipped.length} already there`, failed.length && `${failed.length} failed`,
  ].filter(Boolean)
  $("job-said").textContent = state === "failed" ? reason(error) : `${[ENDS[state], ...counts.slice(0, 1)].join(": ")}${counts.slice(1).map((each) => `, ${each}`).join("")}.`
  const rows = failed.slice(0, SHOWN).map(({name, reason: why}) => el("tr", {}, el("td", {}, name), el("td", {}, why)))
  const head = el("tr", {}, el("th", {scope: "col"}, "What failed"), el("th", {scope: "col"}, "Why"))
  const pairs = copies.slice(0, SHOWN).map(({a, b, kind: how}) => pairRow(a, b, COPIES[how] ?? how))
  $("job-report").replaceChildren(
    ...(rows.length ? [el("table", {}, el("tbody", {}, head, ...rows))] : []),
    el("ul", {class: "pairs"}, ...pairs),
    el("p", {}, el("a", {class: "json", href: `/v1/jobs/${id}`}, "JSON of this job")))
}

/** A pair in a list: both photographs, what is said of them, a link. */
export function pairRow(a, b, said, ...more) {
  const names = [a, b].map((ref) => nameOf({ref})).join(" and ")
  return el("li", {}, thumbnail({ref: a}), thumbnail({ref: b}),
    el("div", {class: "said"}, el("p", {}, said), el("p", {class: "quiet"}, names)),
    el("a", {href: address("/compare", {a, b}), "aria-label": `Compare ${names}`}, "Compare"), ...more)
}
