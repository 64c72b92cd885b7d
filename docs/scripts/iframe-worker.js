// Lets the search work on pages that are opened from a folder, where browsers refuse workers: the worker's script runs
// in a hidden frame instead, and messages go to and fro as they would with a worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.inside = frame.contentWindow
      this.loaded = new Promise((resolve) => {
        window.addEventListener("message", (event) => {
          if (event.source !== this.inside) return
          if (event.data === "iframe-worker: loaded") return resolve()
          const message = new MessageEvent("message", { data: event.data })
          this.dispatchEvent(message)
          if (this.onmessage) this.onmessage(message)
        })
      })
      const inside = this.inside.document
      inside.open()
      inside.write(
        "<script>window.postMessage = (data) => parent.postMessage(data, '*')<\/script>" +
          `<script src="${url}"><\/script>` +
          "<script>parent.postMessage('iframe-worker: loaded', '*')<\/script>"
      )
      inside.close()
    }

    postMessage(data) {
      this.loaded.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
