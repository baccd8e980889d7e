// Makes every explorer on the page that has not been started yet work. `style` and `markup` are explorer.css and explorer.html.
//
// An explorer is a <div class="vit-edu-explorer"> with its data in an attribute, written by explorer.py. Its page lies in a
// shadow root, so that neither the styles nor the names of one explorer reach another, or the rest of the notebook. What is
// in the <div> itself, a picture for where no script runs, is then no longer shown.
(async (style, markup) => {
  "use strict";

  // matplotlib's viridis, at nine places
  const VIRIDIS = [
    [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
    [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
  ];
  const MAP_SIZE = 100; // CSS pixels of the longer side of a map
  const PICTURE_SIZE = 296;
  const READ_AFTER = 150; // milliseconds: who only crosses a patch does not have it read out

  function colour(share) {
    const place = share * (VIRIDIS.length - 1), i = Math.min(Math.floor(place), VIRIDIS.length - 2);
    return `rgb(${VIRIDIS[i].map((low, c) => Math.round(low + (place - i) * (VIRIDIS[i + 1][c] - low))).join(" ")})`;
  }

  function percent(weight, digits = weight < 0.0995 ? 1 : 0) {
    return `${(100 * weight).toFixed(digits)}\u00a0%`;
  }

  function make(parent, tag, className, text = "") {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text; // never as HTML: names of classes come from anywhere
    return parent.appendChild(element);
  }

  async function inflate(base64) {
    const packed = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // A radio button of the browser's own, with all its keys. Returns its <label>.
  function radio(parent, name, value, text, choose) {
    const label = make(parent, "label", "option");
    const input = make(label, "input", "");
    Object.assign(input, { type: "radio", name, value });
    input.addEventListener("change", () => choose(value));
    make(label, "span", "name", text);
    return label;
  }

  function start(root, data, bytes) {
    const shadow = root.attachShadow({ mode: "open" });
    shadow.innerHTML = `<style>${style}</style>${markup}`;
    const find = (selector) => shadow.querySelector(selector);

    const { heads } = data;
    const [rows, cols] = data.grid;
    const prefix = data.prefix.length, tokens = prefix + rows * cols;
    const images = data.pictures.length;
    const MEAN = heads, ROLLOUT = heads + 1; // numbers of the maps, after those of the heads
    const middle = prefix + Math.floor(rows / 2) * cols + Math.floor(cols / 2);
    // block: its place in data.blocks. query: the token that is chosen. pointed: the one under the pointer, or null
    const state = { image: 0, block: data.blocks.length - 1, query: prefix ? 0 : middle, pointed: null, map: MEAN };

    // ------------------------------------------------------------ the numbers

    // Bytes are 255 times the square root of a weight: (blocks, images, heads, tokens, tokens), then rollout, (images, tokens, tokens).
    const row = (at) => Array.from(bytes.subarray(at, at + tokens), (byte) => (byte / 255) ** 2);
    const ofHead = (head, query) =>
      row((((state.block * images + state.image) * heads + head) * tokens + query) * tokens);
    const ofRollout = (query) =>
      row(((data.blocks.length * heads * images + state.image) * tokens + query) * tokens);

    function weightsOf(map, query) {
      if (map === ROLLOUT) return ofRollout(query);
      if (map < heads) return ofHead(map, query);
      const all = Array.from({ length: heads }, (_, head) => ofHead(head, query));
      return all[0].map((_, key) => all.reduce((sum, weights) => sum + weights[key], 0) / heads);
    }

    // Where a row of weights is largest, among the tokens from `first` on
    function largest(weights, first = 0) {
      let best = first;
      for (let key = first; key < tokens; key++) if (weights[key] > weights[best]) best = key;
      return best;
    }

    // ------------------------------------------------------------ words

    const place = (token) => [Math.floor((token - prefix) / cols), (token - prefix) % cols];
    function nameOf(token) {
      if (token < prefix) return data.prefix[token];
      const [r, c] = place(token);
      return `row ${r}, column ${c}`;
    }
    const withArticle = (token) => (token < prefix && !/\d$/.test(nameOf(token)) ? "the " : "") + nameOf(token);
    const queryName = (token) => (token < prefix ? withArticle(token) : `patch ${nameOf(token)}`);
    const depth = data.depth === 1 ? "the only block" : `all ${data.depth} blocks`;

    function mapName(map) {
      if (map === ROLLOUT) return "rollout";
      return map === MEAN ? "mean" : `head ${map}`;
    }

    function sentence(query, weights) {
      const most = largest(weights);
      const block = `block ${data.blocks[state.block]}`;
      const where = state.map === ROLLOUT ? `rollout through ${depth}`
        : state.map === MEAN ? `${block}, mean over ${heads} head${heads > 1 ? "s" : ""}` : `${block}, head ${state.map}`;
      const target = most === query ? "itself" : withArticle(most);
      let text = `${queryName(query)}, ${where}, looks most at ${target} (${percent(weights[most])}).`;
      if (most < prefix) {
        const patch = largest(weights, prefix);
        text += ` Of the patches, most at ${nameOf(patch)} (${percent(weights[patch])}).`;
      }
      return text[0].toUpperCase() + text.slice(1);
    }

    // ------------------------------------------------------------ the page, once

    const box = find(".picture"), cells = find(".cells"), picture = find(".picture img");
    const options = { images: [], blocks: [], maps: [] };
    const queries = []; // an element for each token

    function query(parent, className, token) {
      const element = make(parent, "div", className, token < prefix ? nameOf(token) : "");
      element.setAttribute("role", "radio");
      element.setAttribute("aria-label", queryName(token));
      element.dataset.token = token;
      queries.push(element);
    }
    for (let token = 0; token < tokens; token++) query(token < prefix ? find(".prefix") : cells, token < prefix ? "token" : "cell", token);

    function ticks(parent, count) {
      const every = Math.ceil(count / 16);
      for (let i = 0; i < count; i++) make(parent, "span", "", i % every ? "" : String(i));
    }
    ticks(find(".columns"), cols);
    ticks(find(".rows"), rows);

    for (let i = 0; i < images; i++) {
      const label = radio(find(".images"), "image", i, data.captions[i], (value) => set({ image: value }));
      const thumbnail = document.createElement("img");
      Object.assign(thumbnail, { src: data.pictures[i], alt: "" });
      label.querySelector("input").after(thumbnail);
      label.title = data.captions[i];
      options.images.push(label);
    }
    data.blocks.forEach((number, i) =>
      options.blocks.push(radio(find(".blocks"), "block", i, String(number), (value) => set({ block: value }))));
    find(".images").hidden = images === 1;

    for (let map = 0; map <= ROLLOUT; map++) {
      const label = radio(find(map === ROLLOUT ? ".of-all" : ".of-block"), "map", map, mapName(map), (value) => set({ map: value }));
      label.prepend(document.createElement("canvas"));
      make(label, "span", "most");
      make(label, "span", "told");
      options.maps.push(label);
    }
    find(".even").textContent = `spread evenly, each of the ${tokens} tokens would get ${percent(1 / tokens)}`;
    find(".explorer").style.setProperty("--rows", rows);
    find(".explorer").style.setProperty("--cols", cols);

    // ------------------------------------------------------------ drawing

    function mark(pen, token, size, square) {
      if (token < prefix) return;
      const [r, c] = place(token), x = c * size, y = r * size;
      for (const [stroke, width] of [["black", 0.36], ["white", 0.16]]) { // seen on any colour
        pen.strokeStyle = stroke;
        pen.lineWidth = Math.max(1, width * size);
        pen.beginPath();
        if (square) pen.rect(x + 0.1 * size, y + 0.1 * size, 0.8 * size, 0.8 * size);
        else pen.arc(x + size / 2, y + size / 2, 0.16 * size, 0, 7);
        pen.stroke();
      }
    }

    function drawMap(label, weights, token) {
      const canvas = label.querySelector("canvas");
      const size = Math.max(1, Math.round((MAP_SIZE * 2) / Math.max(rows, cols)));
      if (canvas.width !== size * cols || canvas.height !== size * rows) {
        Object.assign(canvas, { width: size * cols, height: size * rows });
        canvas.style.width = `${(MAP_SIZE * cols) / Math.max(rows, cols)}px`;
      }
      const pen = canvas.getContext("2d"), most = largest(weights, prefix);
      for (let key = prefix; key < tokens; key++) {
        const [r, c] = place(key);
        pen.fillStyle = colour(weights[most] ? weights[key] / weights[most] : 0);
        pen.fillRect(c * size, r * size, size, size);
      }
      mark(pen, token, size, true);
      mark(pen, most, size, false);
      label.querySelector(".most").textContent = percent(weights[most]);
      const told = label.querySelector(".told");
      told.textContent = most === token ? "itself" : nameOf(most);
      const numbered = data.prefix.filter((name) => /\d$/.test(name)).length; // registers are told together
      for (let other = 0; other < prefix - numbered; other++) make(told, "span", "", `${nameOf(other)} ${percent(weights[other], 0)}`);
      if (numbered) {
        const sum = weights.slice(prefix - numbered, prefix).reduce((a, b) => a + b, 0);
        make(told, "span", "", `${data.prefix[prefix - 1].replace(/ \d+$/, numbered > 1 ? "s" : "")} ${percent(sum, 0)}`);
      }
    }

    function drawPicture(weights, token) {
      const most = largest(weights, prefix), lay = find(".lay input").checked;
      queries.forEach((element, key) => {
        element.classList.toggle("looking", key === token);
        element.classList.toggle("most", key === most);
        if (key < prefix) return;
        const dark = lay && weights[most] ? 0.65 * (1 - weights[key] / weights[most]) : 0;
        element.style.backgroundColor = `rgb(0 0 0 / ${dark.toFixed(3)})`;
      });
    }

    let reading;
    function draw() {
      const token = state.pointed ?? state.query;
      for (let map = 0; map <= ROLLOUT; map++) drawMap(options.maps[map], weightsOf(map, token), token);
      const chosen = weightsOf(state.map, token);
      drawPicture(chosen, token);
      find(".of-block legend").textContent = `Block ${data.blocks[state.block]}: each head, and their mean`;
      clearTimeout(reading);
      reading = setTimeout(() => { find(".readout").textContent = sentence(token, chosen); }, READ_AFTER);
    }

    function set(change) {
      Object.assign(state, change);
      picture.src = data.pictures[state.image];
      picture.alt = data.captions[state.image];
      find(".caption").textContent = data.captions[state.image];
      for (const [chosen, labels] of [["image", options.images], ["block", options.blocks], ["map", options.maps]]) {
        labels.forEach((label, i) => { label.querySelector("input").checked = i === state[chosen]; });
      }
      queries.forEach((element, token) => {
        element.setAttribute("aria-checked", String(token === state.query));
        element.tabIndex = token === state.query ? 0 : -1;
      });
      draw();
    }

    // ------------------------------------------------------------ pointer and keys

    const area = find(".queries");
    const tokenOf = (event) => {
      const element = event.target.closest("[data-token]");
      return element ? Number(element.dataset.token) : null;
    };
    area.addEventListener("pointerover", (event) => {
      state.pointed = tokenOf(event);
      draw();
    });
    area.addEventListener("pointerleave", () => {
      state.pointed = null;
      draw();
    });
    area.addEventListener("click", (event) => {
      const token = tokenOf(event);
      if (token === null) return;
      set({ query: token });
      queries[token].focus({ preventScroll: true });
    });

    // The token that a key leads to, or undefined
    function step(event) {
      const token = state.query, [r, c] = place(token), { key } = event;
      const patch = (toRow, toCol) =>
        prefix + Math.min(Math.max(toRow, 0), rows - 1) * cols + Math.min(Math.max(toCol, 0), cols - 1);
      if (key === "Home" && event.ctrlKey) return prefix;
      if (key === "End" && event.ctrlKey) return tokens - 1;
      if (token < prefix) {
        if (key === "ArrowDown") return prefix;
        if (key === "ArrowLeft" || key === "ArrowUp") return Math.max(token - 1, 0);
        if (key === "ArrowRight") return token + 1; // after the last of them, the first patch
        return { Home: 0, End: prefix - 1 }[key];
      }
      if (key === "ArrowUp" && r === 0 && prefix) return prefix - 1;
      return {
        ArrowUp: patch(r - 1, c), ArrowDown: patch(r + 1, c), ArrowLeft: patch(r, c - 1), ArrowRight: patch(r, c + 1),
        Home: patch(r, 0), End: patch(r, cols - 1),
      }[key];
    }
    area.addEventListener("keydown", (event) => {
      const token = step(event);
      if (token === undefined || event.altKey || event.metaKey) return;
      event.preventDefault();
      set({ query: token, pointed: null });
      queries[token].focus();
    });
    find(".lay input").addEventListener("change", draw);

    picture.addEventListener("load", () => { // small pictures are shown as the squares that they are made of
      const { naturalWidth: width, naturalHeight: height } = picture;
      box.style.width = `${PICTURE_SIZE * Math.min(1, width / height)}px`;
      box.style.aspectRatio = `${width} / ${height}`;
      find(".explorer").classList.toggle("coarse", Math.max(width, height) <= 64);
    });
    set({});
  }

  for (const root of document.querySelectorAll(".vit-edu-explorer:not([data-started])")) {
    root.dataset.started = "";
    if (!window.DecompressionStream || !CSS.supports("selector(:has(a))")) continue; // a browser from before 2024: the picture stays
    const data = JSON.parse(root.dataset.explorer);
    start(root, data, await inflate(data.weights));
  }
})
