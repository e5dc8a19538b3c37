/* The camera: frame after frame through the network, each drawn with its own heat. */

import { rank } from "./site_model.js";

const MEASURED_MS = 2000;
const WANTED = { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } };
const part = (id) => document.getElementById(id);
const nextFrame = () => new Promise((resolve) => { requestAnimationFrame(resolve); });

/** Work that goes on beside; what is wrong with it is told once it is waited for. */
function begin(work) {
  work.catch(() => {});
  return work;
}

/** Why there is no picture, in words. */
function tellRefusal({ name, message }) {
  if (name === "NotAllowedError" || name === "SecurityError") {
    return "The camera was refused. Allow it for this page (in the browser's bar of addresses), or choose a photo.";
  }
  if (name === "NotFoundError" || name === "OverconstrainedError") return "This machine has no camera. Choose a photo, or connect a camera.";
  if (name === "NotReadableError" || name === "AbortError") return "The camera is in use by another program. Close that, and try again.";
  return `The camera can't be used: ${message}`;
}

export class Live {
  #video = null;
  #photo = null;
  #times = [];
  #asked = 0;

  constructor(model, app) {
    Object.assign(this, { model, app });
    model.onShow = (photo) => { if (photo !== this.#photo) this.stop(); };
    for (const id of ["camera", "camera-first"]) part(id).addEventListener("click", () => this.start());
    part("camera-stop").addEventListener("click", () => {
      this.stop();
      app.leave();
    });
    part("camera-keep").addEventListener("click", () => this.#keep());
    part("camera-which").addEventListener("change", () => this.start(part("camera-which").value));
    part("first").addEventListener("click", (event) => { if (this.#photo && event.target.closest(".viewer-chip")) this.#hold(); });
    part("search").addEventListener("change", () => { if (this.#photo) this.#hold(); });
  }

  /** Asks for the camera, and shows what it sees until it is stopped. */
  async start(device = "") {
    if (!navigator.mediaDevices) {
      this.app.tellFault("The camera needs a safe address: https://, or http://localhost. Choose a photo, or open the page there.");
      return;
    }
    this.stop();
    this.#asked += 1;
    const round = this.#asked;
    let stream;
    try {
      const video = device ? { ...WANTED, facingMode: undefined, deviceId: { exact: device } } : WANTED;
      stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
      if (round !== this.#asked) {
        stream.getTracks().forEach((track) => track.stop());
        return;
      }
      await this.#begin(stream);
    } catch (error) {
      stream?.getTracks().forEach((track) => track.stop());
      if (stream && this.#video?.srcObject !== stream) return;  // another one was begun meanwhile
      this.stop();
      this.app.leave();
      this.app.tellFault(error instanceof DOMException ? tellRefusal(error) : error.message);
    }
  }

  async #begin(stream) {
    const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
    this.#video = video;
    stream.getVideoTracks()[0].addEventListener("ended", () => {
      if (this.#video !== video) return;
      this.stop();
      this.app.leave();
      this.app.tellFault("The camera was switched off. Switch it on again, or choose a photo.");
    });
    await video.play();
    await this.#listCameras(stream);
    await this.model.ready();
    if (this.#video !== video) return;
    this.#photo = { name: "Camera", isMoving: true, answer: null, entry: null, extra: [] };
    part("camera-hold").checked = false;
    part("camera-tools").hidden = false;
    await this.#run(video, this.#photo);
  }

  async #listCameras(stream) {
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
    const options = cameras.map(({ deviceId, label }, i) => new Option(label || `Camera ${i + 1}`, deviceId));
    part("camera-which").replaceChildren(...options);
    part("camera-which").value = stream.getVideoTracks()[0].getSettings().deviceId ?? "";
    part("camera-which").closest("label").hidden = cameras.length < 2;
  }

  /** While one frame is drawn, the network has the next one, and the one behind that is made ready for it. */
  async #run(video, photo) {
    const isOn = () => this.#photo === photo;
    let shownAt = -1;
    const prepare = async () => {
      while (isOn() && video.currentTime === shownAt) await nextFrame();
      shownAt = video.currentTime;
      return isOn() ? this.model.prepareFrame(await createImageBitmap(video)) : null;
    };
    const read = async (frame) => (isOn() && frame ? this.model.readFrame(frame) : null);
    let answer = begin(prepare().then(read));
    while (isOn()) {
      const ready = begin(prepare());
      const found = await answer;
      if (!found) return;
      answer = begin(ready.then(read));
      await this.#draw(photo, found);
      await nextFrame();
    }
  }

  async #draw(photo, answer) {
    photo.answer?.frame.close();
    photo.answer = answer;
    const { entry } = await this.model.explain(photo);
    const best = rank(answer.logits)[0];
    const viewer = this.app.viewer();
    const isHeld = part("camera-hold").checked && photo.entry;
    const [held, versus] = isHeld ? [viewer.selected, viewer.versus] : [best, null];
    const wanted = [best, held, versus, ...photo.extra].filter((k) => k !== null);
    const isFirst = photo.entry === null;
    photo.entry = this.#order(entry, photo.entry, wanted, best);
    if (isFirst) this.app.present(photo);
    viewer.refresh(photo.entry, held);
    this.#count();
  }

  /** The classes in the places that they had in the frame before, so that they can be read and pressed. */
  #order(entry, before, wanted, best) {
    const kept = before ? before.classes.filter((k) => entry.classes.includes(k) || wanted.includes(k)) : [...entry.classes];
    const classes = [...new Set([...kept, ...entry.classes, ...wanted])];
    return this.model.entryOf(this.#photo, classes, this.model.isMultiLabel ? {} : { told: classes.map((k) => (k === best ? "predicted" : "")) });
  }

  #hold() {
    part("camera-hold").checked = true;
  }

  /** Frames a second, of the last seconds. */
  #count() {
    const now = performance.now();
    this.#times = [...this.#times.filter((time) => now - time < MEASURED_MS), now];
    const seconds = (now - this.#times[0]) / 1000;
    if (seconds > 0) part("camera-rate").textContent = `${((this.#times.length - 1) / seconds).toFixed(1)} frames a second`;
  }

  /** The frame that is shown becomes a photo of the list. */
  async #keep() {
    const frame = this.#photo?.answer?.frame;
    if (!frame) return;
    const canvas = new OffscreenCanvas(frame.width, frame.height);
    canvas.getContext("2d").drawImage(frame, 0, 0);
    const name = `camera ${new Date().toTimeString().slice(0, 8).replaceAll(":", ".")}.png`;
    const file = new File([await canvas.convertToBlob({ type: "image/png" })], name, { type: "image/png" });
    this.stop();
    this.app.addFiles([file]);
  }

  stop() {
    this.#asked += 1;
    this.#video?.srcObject.getTracks().forEach((track) => track.stop());
    this.#video = null;
    this.#photo = null;
    this.#times = [];
    part("camera-tools").hidden = true;
    part("camera-rate").textContent = "";
  }
}
