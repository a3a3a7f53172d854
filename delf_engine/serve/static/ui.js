// What all views share: elements, photographs, problems, the picker, words for a verdict.
import {ask, pictureOf} from "./api.js"

export const $ = (id) => document.getElementById(id)
export const readonly = "readonly" in document.body.dataset

const SVG = "http://www.w3.org/2000/svg"

/** Make an element: `on...` are listeners, other names attributes; text is only ever text. */
export const el = (tag, values, ...inside) => filled(document.createElement(tag), values, inside)
export const svg = (tag, values, ...inside) => filled(document.createElementNS(SVG, tag), values, inside)

function filled(element, values = {}, inside) {
  for (const [name, value] of Object.entries(values)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value)
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value)
  }
  element.append(...inside.filter((each) => each !== null && each !== undefined))
  return element
}

/** Text without the characters that turn the direction of writing: a name could pose as another. */
const plain = (text) => text.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd")

export function nameOf(photo) {
  if (photo.name) return plain(photo.name)
  return photo.ref.startsWith("upload:") ? "Uploaded photograph" : plain(photo.ref.split("/").pop() || photo.ref)
}

export const counted = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`

/** Never surer than it is: no 100 % for less than 1. */
export function percent(p) {
  const text = `${(100 * p).toFixed(1)} %`
  if (p < 1 && text === "100.0 %") return "> 99.9 %"
  return p > 0 && text === "0.0 %" ? "< 0.1 %" : text
}

const ANSWERS = {same: "The same place", unsure: "Perhaps the same place", different: "Not the same place"}
export const badge = (verdict, words = ANSWERS) => el("span", {class: `badge ${verdict}`}, words[verdict])

/** A thumbnail, with a part of it framed; or a frame that says that its file cannot be read. */
export function thumbnail(photo, region, alt = nameOf(photo)) {
  const box = el("div", {class: "photo"})
  const image = el("img", {src: pictureOf(photo.ref, 384), alt, loading: "lazy", decoding: "async"})
  image.addEventListener("error", () => {
    box.className = "photo gone"
    box.replaceChildren(`${nameOf(photo)} cannot be shown`)
  })
  box.append(image)
  if (region) box.append(framed(photo, region))
  return box
}

/** A frame around a part of a photograph, to lie over its picture; an empty drawing if there is no part. */
export function framed({width, height}, box) {
  const [x, y, x1, y1] = box ?? []
  const frames = box ? ["halo", "frame"].map((name) => svg("rect", {class: name, x, y, width: x1 - x, height: y1 - y})) : []
  return svg("svg", {viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true"}, ...frames)
}

export const say = (text) => { $("status").textContent = text }

/** Link to the JSON of what is shown. */
export function linkJson(path) {
  Object.assign($("json"), {href: path, hidden: false})
}

/** Do something, and tell in words if it fails, with a button where another try may help. */
export async function attempt(work) {
  $("problem").replaceChildren()
  try {
    return await work()
  } catch (error) {
    if (error.name === "AbortError") return undefined
    if (!error.words) console.error(error)
    const again = error.passing ? el("p", {class: "row"}, el("button", {type: "button", onclick: () => attempt(work)}, "Try again")) : null
    $("problem").replaceChildren(el("div", {}, el("p", {}, error.words ?? "Something in this page has failed. Load it again."), again))
    say("")
    $("problem").scrollIntoView({block: "nearest"})
    return undefined
  }
}

/**
 * Let a picker take files: chosen or taken with the camera; dropped on `zone`, which is all of the document for one
 * that also takes what is pasted.
 */
export function picker(id, take, zone = null) {
  const root = $(id)
  const given = (files) => files?.length && take([...files])
  for (const input of root.querySelectorAll(".choose")) {
    input.addEventListener("change", () => {
      given(input.files)
      input.value = "" // the same file may be chosen again
    })
  }
  zone?.addEventListener("dragover", (event) => {
    event.preventDefault()
    root.classList.add("over")
  })
  for (const name of ["dragleave", "drop"]) zone?.addEventListener(name, () => root.classList.remove("over"))
  zone?.addEventListener("drop", (event) => {
    event.preventDefault()
    given(event.dataTransfer.files)
  })
  if (zone === document) document.addEventListener("paste", (event) => given(event.clipboardData?.files))
}

$("logout")?.addEventListener("click", () => attempt(async () => {
  await ask("/logout", {method: "POST"})
  location.assign("/login")
}))
