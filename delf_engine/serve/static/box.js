// A box over a photograph: drawn with a pointer, or typed into four fields.
import {$, el, framed} from "./ui.js"
import {pictureOf} from "./api.js"
const SMALLEST = 8 // pixels a side: less is a click

export class BoxEditor {
  /** `canvas` shows the photograph, `fields` are the inputs x0, y0, x1, y1. */
  constructor(canvas, fields) {
    Object.assign(this, {canvas, fields, box: null, from: null})
    for (const field of fields) field.addEventListener("input", () => this.typed())
    canvas.addEventListener("pointerdown", (event) => this.begin(event))
    canvas.addEventListener("pointermove", (event) => this.from && this.drag(event))
    canvas.addEventListener("pointerup", () => this.end())
    canvas.addEventListener("pointercancel", () => this.end())
  }

  /** Show a photograph, with a box or none. */
  show(photo, box) {
    this.photo = photo
    const image = el("img", {src: pictureOf(photo.ref, 768), alt: "The photograph that is searched for", width: photo.width, height: photo.height, draggable: "false"})
    this.canvas.replaceChildren(image)
    this.fields.forEach((field, i) => { field.max = i % 2 ? photo.height : photo.width })
    this.set(box)
  }

  set(box) {
    this.box = box
    if (box) $("part").open = true
    this.fields.forEach((field, i) => { field.value = box ? Math.round(box[i]) : "" })
    this.draw()
  }

  draw() {
    this.canvas.querySelector("svg")?.remove()
    this.canvas.append(framed(this.photo, this.box))
  }

  /** Take what the fields say, once they say a box. */
  typed() {
    const values = this.fields.map((field) => field.valueAsNumber)
    const whole = values.every(Number.isFinite) && values[0] < values[2] && values[1] < values[3]
    this.box = whole ? values : null
    this.draw()
  }

  begin(event) {
    if (!this.photo || event.button !== 0 || (event.pointerType === "touch" && !$("part").open)) return
    event.preventDefault()
    this.canvas.setPointerCapture(event.pointerId)
    this.before = this.box
    this.from = this.pixel(event)
  }

  drag(event) {
    const [x, y] = this.pixel(event), [u, v] = this.from
    this.set([Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)])
  }

  end() {
    const small = this.box && Math.min(this.box[2] - this.box[0], this.box[3] - this.box[1]) < SMALLEST
    if (this.from && small) this.set(this.before)
    this.from = null
  }

  /** Where a pointer is, in pixels of the photograph. */
  pixel(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.canvas.querySelector("svg").getScreenCTM().inverse())
    const {width, height} = this.photo
    return [Math.round(Math.min(Math.max(at.x, 0), width)), Math.round(Math.min(Math.max(at.y, 0), height))]
  }
}
