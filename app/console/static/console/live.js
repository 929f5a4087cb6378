// Keeps what is shown of jobs up to date, by WebSocket or else by polling. Needs no library.
//
// <div data-live="/ws/jobs/ID" hx-get="..." hx-trigger="live:refresh"> (a job), or "/ws/jobs" (the
// list), is followed. Within it, elements with data-field="done", "total", "attempts" or "progress"
// inside of data-job="ID" are set at once. For all else the event live:refresh asks for the
// server's HTML: when a job is new or its state has changed (from data-state beside data-job, if it
// is there), after a reconnect, and while polling. [data-live-status] says "live", "reconnecting"
// or "polling".
(() => {
  "use strict";

  const SHORTEST_RETRY_MS = 500;
  const LONGEST_RETRY_MS = 15_000;
  // A socket that lived so long was no accident: the next failure begins with short pauses again.
  const STABLE_MS = 10_000;
  // The server sends something at once. Proxies exist that open a socket and pass nothing on.
  const FIRST_MESSAGE_MS = 10_000;
  const FAILURES_BEFORE_POLLING = 2;
  const POLL_MS = 2_000;
  const SHORTEST_REFRESH_MS = 1_000;
  // Close codes of the server: see jobs/consumers.py.
  const ENDED = 1000;
  const UNAUTHENTICATED = 4401;
  const NOT_FOUND = 4404;

  const digits = new Intl.NumberFormat("en-US");
  // By address, not by element: a swap may replace the element, and its socket goes on.
  const followers = new Map();

  class Follower {
    constructor(address) {
      this.address = address;
      this.isOfOneJob = address !== "/ws/jobs";
      this.jobs = new Map(); // The last message about each job.
      this.states = new Map(); // The state of each job in the server's HTML.
      this.status = null; // Not known yet.
      this.failures = 0; // Since the last message.
      this.retries = 0; // Since the last stable socket.
      this.hasConnected = false;
      this.isStopped = false;
      this.refreshedAt = -Infinity;
      this.noteShownStates();
      this.open();
    }

    elements() {
      return document.querySelectorAll(`[data-live="${CSS.escape(this.address)}"]`);
    }

    containers(jobId) {
      const selector = jobId ? `[data-job="${CSS.escape(jobId)}"]` : "[data-job]";
      return [...this.elements()].flatMap((element) => [
        ...(element.matches(selector) ? [element] : []),
        ...element.querySelectorAll(selector),
      ]);
    }

    // --- The socket ---

    open() {
      const url = new URL(this.address, location.href);
      url.protocol = url.protocol.replace("http", "ws");
      let socket;
      try {
        socket = new WebSocket(url);
      } catch {
        // Some browsers refuse by a content security policy with an error.
        this.failed();
        return;
      }
      this.socket = socket;
      // Events of a socket that was given up come late.
      const ifCurrent = (action) => (event) => {
        if (socket === this.socket) action(event);
      };
      socket.onmessage = ifCurrent((event) => this.received(JSON.parse(event.data)));
      socket.onclose = ifCurrent((event) => this.closed(event.code));
      // A socket that hangs is never told that it has failed.
      this.deadline = setTimeout(() => this.closed(0), FIRST_MESSAGE_MS);
    }

    release() {
      clearTimeout(this.deadline);
      clearTimeout(this.stable);
      const socket = this.socket;
      this.socket = null;
      socket?.close();
    }

    closed(code) {
      this.release();
      if (code === UNAUTHENTICATED || code === NOT_FOUND || (code === ENDED && this.isOfOneJob)) {
        this.stop();
        // The server then shows the sign-in page.
        if (code === UNAUTHENTICATED) this.refresh();
        return;
      }
      this.failed();
    }

    failed() {
      this.failures += 1;
      this.show(this.failures < FAILURES_BEFORE_POLLING ? "reconnecting" : "polling");
      if (this.status === "polling" && !this.poll) {
        this.refresh();
        this.poll = setInterval(() => this.refresh(), POLL_MS);
      }
      // Anywhere up to the limit, so that those whom a restart cut off do not come back at once.
      const limit = Math.min(LONGEST_RETRY_MS, SHORTEST_RETRY_MS * 2 ** this.retries);
      this.retries += 1;
      this.retry = setTimeout(() => this.open(), Math.random() * limit);
    }

    openNow() {
      if (this.isStopped || this.socket) return;
      clearTimeout(this.retry);
      this.open();
    }

    stopPolling() {
      clearInterval(this.poll);
      this.poll = null;
    }

    stop() {
      this.isStopped = true;
      this.stopPolling();
      clearTimeout(this.retry);
      this.release();
    }

    // --- What it says ---

    received(message) {
      if (this.status !== "live") {
        clearTimeout(this.deadline);
        this.stable = setTimeout(() => (this.retries = 0), STABLE_MS);
        this.failures = 0;
        this.stopPolling();
        this.show("live");
        if (this.hasConnected) {
          this.states.clear();
          this.refresh();
        }
        this.hasConnected = true;
      }
      if (message.jobs) this.jobs.clear(); // Pages stay open for days.
      const jobs = this.isOfOneJob ? [message] : (message.jobs ?? [message.job]);
      for (const job of jobs) {
        this.jobs.set(job.id, job);
        for (const container of this.containers(job.id)) this.fill(container, job);
        if (this.states.get(job.id) !== job.state) {
          this.states.set(job.id, job.state);
          this.refresh();
        }
      }
    }

    fill(container, job) {
      for (const field of container.querySelectorAll("[data-field]")) {
        const name = field.dataset.field;
        if (name === "progress") {
          field.max = job.total || 1;
          field.value = job.done;
        } else if (["done", "total", "attempts"].includes(name)) {
          const text = digits.format(job[name]);
          // Only changes: assistive technology reads them out, and `swapped` is called for them.
          if (field.textContent !== text) field.textContent = text;
        }
      }
    }

    noteShownStates() {
      for (const { dataset } of this.containers()) {
        if (dataset.state) this.states.set(dataset.job, dataset.state);
      }
    }

    // New HTML may be older than what was received meanwhile.
    swapped() {
      for (const container of this.containers()) {
        const job = this.jobs.get(container.dataset.job);
        if (job) this.fill(container, job);
      }
    }

    show(status) {
      this.status = status;
      showStatus();
    }

    refresh() {
      if (this.refreshing) return;
      const ask = () => {
        this.refreshing = null;
        this.refreshedAt = performance.now();
        for (const element of this.elements()) {
          element.dispatchEvent(new CustomEvent("live:refresh"));
        }
      };
      const pause = this.refreshedAt + SHORTEST_REFRESH_MS - performance.now();
      this.refreshing = setTimeout(ask, Math.max(0, pause));
    }
  }

  function showStatus() {
    const all = [...followers.values()].map((follower) => follower.status);
    const status = ["polling", "reconnecting", "live"].find((one) => all.includes(one));
    if (!status) return;
    for (const element of document.querySelectorAll("[data-live-status]")) {
      if (element.dataset.state !== status) element.dataset.state = status;
      if (element.textContent !== status) element.textContent = status;
    }
  }

  // Follows what the page shows now, and nothing else.
  function lookAtPage() {
    const shown = new Set(
      [...document.querySelectorAll("[data-live]")].map((element) => element.dataset.live),
    );
    for (const [address, follower] of followers) {
      if (!shown.has(address)) {
        follower.stop();
        followers.delete(address);
      } else {
        follower.swapped();
      }
    }
    for (const address of shown) {
      if (!followers.has(address)) followers.set(address, new Follower(address));
    }
    showStatus();
  }

  lookAtPage();
  new MutationObserver(lookAtPage).observe(document.documentElement, {
    attributeFilter: ["data-live"],
    childList: true,
    subtree: true,
  });
  addEventListener("online", () => followers.forEach((follower) => follower.openNow()));
})();
