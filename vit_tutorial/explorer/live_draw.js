// A sheet to draw a digit on, with a finger, a pen or the mouse.

import { addButton, element } from "./page.js";

const SHEET = 224; // pixels

export class Sheet {
  constructor(parent, drawn) {
    this.box = element("div", "li-sheet", parent);
    this.canvas = element("canvas", "", this.box);
    const beside = element("div", "", this.box);
    element("p", "ex-note", beside, "Draw a digit here.");
    [this.canvas.width, this.canvas.height] = [SHEET, SHEET];
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", "A sheet to draw on with a pointer. With the keyboard, choose one of the samples.");
    addButton(beside, "Empty the sheet", () => {
      this.clear();
      drawn(this.image()); // an answer there is to an empty sheet, too
    });
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.clear();
    this.follow(drawn);
  }

  clear() {
    this.pen.fillStyle = "#000000";
    this.pen.fillRect(0, 0, SHEET, SHEET);
  }

  follow(drawn) {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [((event.clientX - box.left) * SHEET) / box.width, ((event.clientY - box.top) * SHEET) / box.height];
    };
    let last = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.canvas.setPointerCapture(event.pointerId);
      last = at(event);
      this.line(last, last);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const next = at(event);
      this.line(last, next);
      last = next;
    });
    const end = () => {
      if (!last) return;
      last = null;
      drawn(this.image());
    };
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
  }

  line(from, to) {
    Object.assign(this.pen, { strokeStyle: "#ffffff", lineWidth: SHEET / 7, lineCap: "round", lineJoin: "round" });
    this.pen.beginPath();
    this.pen.moveTo(...from);
    this.pen.lineTo(...to);
    this.pen.stroke();
  }

  // What was drawn, as large as fits and in the middle: so were the digits that the network has seen.
  image() {
    const { data } = this.pen.getImageData(0, 0, SHEET, SHEET);
    let [left, top, right, bottom] = [SHEET, SHEET, 0, 0];
    for (let i = 0; i < SHEET * SHEET; i++) {
      if (data[4 * i] < 64) continue;
      const [x, y] = [i % SHEET, Math.floor(i / SHEET)];
      [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x + 1), Math.max(bottom, y + 1)];
    }
    if (right <= left) return this.pen.getImageData(0, 0, SHEET, SHEET);
    const scale = SHEET / Math.max(right - left, bottom - top);
    const whole = document.createElement("canvas");
    [whole.width, whole.height] = [SHEET, SHEET];
    const pen = whole.getContext("2d");
    pen.fillRect(0, 0, SHEET, SHEET);
    const [wide, high] = [(right - left) * scale, (bottom - top) * scale];
    pen.drawImage(this.canvas, left, top, right - left, bottom - top, (SHEET - wide) / 2, (SHEET - high) / 2, wide, high);
    return pen.getImageData(0, 0, SHEET, SHEET);
  }
}
