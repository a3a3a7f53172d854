// The first photograph laid over the second by the transform that was found, by CSS alone.
import {pictureOf} from "./api.js"
import {el, nameOf} from "./ui.js"

export class Overlay {
  constructor(stage, pair, side) {
    Object.assign(this, {stage, pair, onswipe: () => {}})
    const {a, b} = pair
    this.image = el("img", {src: pictureOf(a.ref, side), alt: ""})
    this.layer = el("div", {class: "a"}, this.image)
    this.edge = el("div", {class: "edge"})
    const base = el("img", {class: "base", src: pictureOf(b.ref, side), width: b.width, height: b.height, alt: `${nameOf(a)} laid over ${nameOf(b)}`})
    stage.replaceChildren(base, this.layer, this.edge)
    this.image.addEventListener("load", () => this.place())
    new ResizeObserver(() => this.place()).observe(stage)
    for (const name of ["pointerdown", "pointermove"]) stage.addEventListener(name, (event) => this.pull(event))
  }

  /** Swipe: show the first up to a share of the width; blend: as strong as the share. */
  show(how, share) {
    const swipes = how === "swipe"
    this.swipes = swipes
    this.layer.style.clipPath = swipes ? `inset(0 ${100 - share}% 0 0)` : "none"
    this.layer.style.opacity = swipes ? "1" : String(share / 100)
    this.edge.style.left = `calc(${share}% - 1px)`
    this.edge.hidden = !swipes
  }

  /** Lay pixels of the picture where the transform has them, in pixels of the stage. */
  place() {
    const {naturalWidth: width} = this.image
    if (!width || !this.stage.clientWidth) return
    const {a, b, judgement} = this.pair
    const into = a.width / width // pixels of the photograph for one of its picture
    const out = this.stage.clientWidth / b.width
    const [[m, n, x], [p, q, y], [r, s, w]] = judgement.transform
    const columns = [
      [m * into * out, p * into * out, 0, r * into], [n * into * out, q * into * out, 0, s * into],
      [0, 0, 1, 0], [x * out, y * out, 0, w],
    ]
    this.image.style.width = `${width}px`
    this.image.style.transform = `matrix3d(${columns.flat().map((each) => each.toFixed(12)).join(",")})`
  }

  pull(event) {
    if (!this.swipes || !(event.buttons & 1)) return
    event.preventDefault()
    const {left, width} = this.stage.getBoundingClientRect()
    this.onswipe(Math.round(Math.min(Math.max((100 * (event.clientX - left)) / width, 0), 100)))
  }
}
