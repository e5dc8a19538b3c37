/* A thread beside the page: it is asked, and answers in the order of the questions. */

export class Thread {
  #worker = null;
  #asked = new Map();
  #count = 0;

  /** One that is up; an Error says why it can't be. @param files where its script is, see `SiteFiles`. */
  static async start(files) {
    const thread = new Thread();
    await thread.#start(files);
    return thread;
  }

  #start({ worker, remedy }) {
    // A thread from the page's own memory is under the page's policy, one from an address would be under none. It is no
    // module itself: from the disk browsers refuse that.
    const source = `import(${JSON.stringify(worker)}).catch(() => postMessage({ isReady: false }));`;
    this.#worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    return new Promise((resolve, reject) => {
      const refuse = () => reject(new Error(`The network's files can't be loaded. ${remedy}`));
      this.#worker.addEventListener("message", ({ data }) => {
        if (data.isReady) resolve();
        else if (data.isReady === false) refuse();
        else this.#take(data);
      });
      this.#worker.addEventListener("error", refuse);
    });
  }

  #take({ id, result, fault }) {
    const { resolve, reject } = this.#asked.get(id);
    this.#asked.delete(id);
    if (fault === undefined) resolve(result);
    else reject(new Error(fault));
  }

  /** What it answers. @param call a name of its script's. @param moved what of the question is given away. */
  ask(call, question, moved = []) {
    this.#count += 1;
    const id = this.#count;
    return new Promise((resolve, reject) => {
      this.#asked.set(id, { resolve, reject });
      this.#worker.postMessage({ id, call, ...question }, moved);
    });
  }
}
