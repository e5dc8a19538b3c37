/* Where the files of an exported site come from: the host that the page itself is from. */

/** What `LocalModel` reads: the description, files by name, a photo to check on, and the thread that runs the network. */
export class SiteFiles {
  /** @param base the site's address. */
  constructor(base) {
    this.base = base;
    /** What helps where one can't be loaded. */
    this.remedy = "Upload the whole folder.";
    /** Modules: the thread that runs the network, and what loads the WebAssembly. */
    this.worker = this.#at("app/site_worker.js");
    this.glue = this.#at("runtime/ort-wasm-simd-threaded.mjs");
  }

  async readModel() {
    return (await this.#load("model.json")).json();
  }

  async read(name) {
    return (await this.#load(name)).arrayBuffer();
  }

  async readSample(name) {
    return new File([await (await this.#load(`samples/${name}`)).blob()], name);
  }

  #at(name) {
    return new URL(name, this.base).href;
  }

  async #load(name) {
    const answer = await fetch(this.#at(name)).catch(() => null);
    const why = answer ? `the host answered ${answer.status}` : "the host does not answer";
    if (!answer?.ok) throw new Error(`'${name}' can't be loaded: ${why}. ${this.remedy}`);
    return answer;
  }
}
