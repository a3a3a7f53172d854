// Verdicts, and the calibration they teach: its reliability beside the one in use, before it is taken over.
import {address, ask} from "./api.js"
import {pairRow, watch} from "./jobs.js"
import {$, attempt, counted, el, linkJson, nameOf, readonly, say, svg} from "./ui.js"
const SAID = {same: "Same place", different: "Different places", "look-alike": "Look-alikes"}
let verdicts = []

async function load() {
  const [kept, calibrations] = await Promise.all([ask("/v1/verdicts"), ask("/v1/calibration")])
  linkJson("/v1/verdicts")
  verdicts = kept.reverse() // the latest first
  $("verdicts").replaceChildren(...verdicts.map(row))
  $("none").hidden = Boolean(verdicts.length)
  calibration(calibrations)
}

function row({a, b, verdict}) {
  const names = [a, b].map((ref) => nameOf({ref})).join(" and ")
  const forget = () => attempt(async () => {
    await ask(address("/v1/verdicts", {a, b}), {method: "DELETE"})
    await load()
    say(`The verdict on ${names} is forgotten.`)
    $("kept-title").scrollIntoView({block: "nearest"})
  })
  return pairRow(a, b, SAID[verdict], el("button", {type: "button", onclick: forget, "aria-label": `Forget the verdict on ${names}`}, "Forget"))
}

function calibration({own, trained_on: source, proposed}) {
  const same = verdicts.filter((each) => each.verdict === "same").length
  const count = `${counted(verdicts.length, "verdict")} so far: ${same} of the same place, ${verdicts.length - same} of others. It takes ten of either kind.`
  const used = own ? `In use: a calibration of this library, fitted to ${source}.` : source ? `In use: the model's own calibration, fitted to ${source}.` : "In use: none. The number of inliers decides."
  $("in-use").textContent = `${used} ${count}`
  $("own").hidden = !own
  $("proposed").hidden = !proposed
  if (!proposed) return
  $("proposed-said").textContent = `Fitted to ${counted(proposed.pairs, "verdict")}, ${new Date(1000 * proposed.at).toLocaleString()}. Nothing has changed yet. The nearer to the diagonal, the more its probabilities can be trusted.`
  $("curves").replaceChildren(figure("In use now", proposed.old), figure("Proposed, judged on places it has not seen", proposed.new))
}

function figure(title, found) {
  if (!found) return el("div", {}, el("h4", {}, title), el("p", {class: "quiet"}, "Too few pairs are judged to say."))
  const at = ({stated, share}) => [40 + 200 * stated, 210 - 200 * share]
  const dots = found.bins.map((bin) => {
    const [cx, cy] = at(bin)
    return svg("circle", {cx, cy, r: 3 + Math.min(6, Math.sqrt(bin.pairs))}, svg("title", {}, `stated ${bin.stated.toFixed(2)}, true ${bin.share.toFixed(2)}, ${counted(bin.pairs, "pair")}`))
  })
  const text = (x, y, words, values = {}) => svg("text", {x, y, ...values}, words)
  const error = `${(100 * found.error).toFixed(1)} %`
  const rows = found.bins.map((bin) => el("tr", {}, ...[bin.stated.toFixed(2), bin.share.toFixed(2), bin.pairs].map((cell) => el("td", {}, String(cell)))))
  return el("div", {}, el("h4", {}, title),
    svg("svg", {class: "curve", viewBox: "0 0 250 248", role: "img", "aria-label": `Reliability of ${counted(found.pairs, "pair")}: calibration error ${error}`},
      svg("path", {class: "axis", d: "M40 10V210H240", fill: "none"}), svg("path", {class: "ideal", d: "M40 210L240 10"}),
      svg("polyline", {points: found.bins.map((bin) => at(bin).join(",")).join(" ")}), ...dots,
      text(140, 244, "stated probability", {"text-anchor": "middle"}), text(40, 226, "0"), text(240, 226, "1", {"text-anchor": "end"}),
      text(34, 16, "1", {"text-anchor": "end"}), text(14, 110, "share that is true", {"text-anchor": "middle", transform: "rotate(-90 14 110)"})),
    el("p", {}, `Calibration error ${error}, area under the ROC curve ${found.auc.toFixed(3)}, ${counted(found.pairs, "pair")}.`),
    el("details", {}, el("summary", {}, "Figures"), el("table", {}, el("tbody", {}, el("tr", {}, ...["stated", "true", "pairs"].map((word) => el("th", {scope: "col"}, word))), ...rows))))
}

/** Show a job that fits one, and what it proposes. */
const fit = (job) => attempt(async () => {
  $("recalibrate").disabled = true
  try {
    await watch(job)
    calibration(await ask("/v1/calibration"))
  } finally {
    $("recalibrate").disabled = false
  }
})

async function begin() {
  await load()
  const job = (await ask("/v1/jobs")).find((each) => each.kind === "recalibrate" && ["queued", "running"].includes(each.state))
  if (job) await fit(job)
}

const change = (method, words, what = "") => () => attempt(async () => {
  calibration(await ask(`/v1/calibration${what}`, {method}))
  say(words)
  $("recalibrate").focus()
})

if (!readonly) {
  $("recalibrate").addEventListener("click", () => attempt(async () => fit(await ask("/v1/calibration", {method: "POST"}))))
  $("take").addEventListener("click", change("PUT", "Taken over: it judges from the next answer on."))
  $("discard").addEventListener("click", change("DELETE", "Discarded: nothing has changed.", "/proposal"))
  $("own").addEventListener("click", change("DELETE", "The model's own calibration judges again."))
  attempt(begin)
}
