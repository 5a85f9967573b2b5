// The page: load the model, prepare an image as Python does, run it, and draw what came out.

import { pixelValues, prepared } from "./preprocess.js";

const MAX_BYTES = 200e6;
const MAX_PIXELS = 100e6;
const SMALLEST_CANVAS = 320;
// Of Cividis, which people with any kind of colour vision see as one ramp from dark to light.
const RAMP = ["#00224e", "#233e6c", "#575d6d", "#8a8779", "#c4b56c", "#fee838"].map((one) =>
  [1, 3, 5].map((at) => parseInt(one.slice(at, at + 2), 16)),
);

const $ = (selector) => document.querySelector(selector);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const sessions = new Map();
let about, settings, engine, shown, busy, waiting;

async function json(file) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file} could not be loaded (${response.status}).`);
  return response.json();
}

// ---- Loading

/** The bytes of a file, decompressed if they are, whatever the host says of them; `report` hears of each part. */
async function bytes(file, report = () => {}) {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file} could not be loaded (${response.status}).`);
  const parts = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    report(value.length);
  }
  const blob = new Blob(parts);
  const [first, second] = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const isCompressed = first === 0x1f && second === 0x8b;
  return new Response(isCompressed ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob).arrayBuffer();
}

/** The model in an engine, loaded once: a function from pixel values to its outputs by name. */
function session({ id, device, dtype, runtime, wasm, bytes: total }) {
  if (!sessions.has(id)) {
    const loading = load({ device, dtype, runtime, wasm, total });
    sessions.set(id, loading);
    loading.catch(() => sessions.delete(id));
  }
  return sessions.get(id);
}

async function load({ device, dtype, runtime, wasm, total }) {
  let loaded = 0;
  const report = (count) => {
    loaded += count;
    $("#progress").value = Math.min(1, loaded / total);
    say(loaded < total ? `Loading the model: ${megabytes(loaded)} of ${megabytes(total)}` : "Starting the model");
  };
  $("#progress").hidden = false;
  report(0);
  try {
    const [library, binary] = await Promise.all([import(runtime), bytes(wasm, report)]);
    const { AutoModel, Tensor, env } = library;
    Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, useBrowserCache: false, useWasmCache: false });
    env.localModelPath = new URL("./", location.href).href;
    // One thread needs no headers of the host for memory that is shared.
    Object.assign(env.backends.onnx.wasm, { numThreads: 1, wasmBinary: binary, wasmPaths: { wasm } });
    let model = 0;
    const progress_callback = ({ status, file, loaded: count }) => {
      if (status === "progress" && file.endsWith(".onnx")) report(count - model), (model = count);
    };
    const opened = await AutoModel.from_pretrained("model", { device, dtype, progress_callback });
    const run = async ({ data, dims }) => {
      const found = await opened({ pixel_values: new Tensor("float32", data, dims) });
      return Object.fromEntries(Object.entries(found).map(([name, { data, dims }]) => [name, { data: Float32Array.from(data), dims }]));
    };
    const [height, width] = about.size;
    await run({ data: new Float32Array(about.channels * height * width), dims: [1, about.channels, height, width] });
    return run;
  } finally {
    $("#progress").hidden = true;
    say("");
  }
}

async function engines() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const files = "./vendor/transformers.js";
  const all = about.models.map(({ dtype, bytes: size, precision }) => ({
    id: `wasm-${dtype}`, device: "wasm", dtype, runtime: files, wasm: "vendor/ort.wasm.gz", bytes: size + about.runtimes.wasm, name: `WASM, ${precision}`,
  }));
  const { dtype, bytes: size } = about.models.find((one) => one.dtype === "fp32");
  all.push({
    // Another address for the same file: the import map gives it the runtime for WebGPU.
    id: "webgpu-fp32", device: "webgpu", dtype, runtime: `${files}?webgpu`, wasm: "vendor/ort.webgpu.wasm.gz", bytes: size + about.runtimes.webgpu, name: "WebGPU, float32", missing: !adapter,
  });
  for (const one of all) {
    const name = one.missing ? `${one.name} (not in this browser)` : `${one.name} (${megabytes(one.bytes)})`;
    const option = new Option(name, one.id);
    option.disabled = Boolean(one.missing);
    $("#engine").append(option);
  }
  return all;
}

// ---- Images

/** Whether a canvas gives the levels that were put into it: some browsers add noise against tracking. */
function canvasIsExact() {
  const data = Uint8ClampedArray.from({ length: 4096 }, (_, i) => (i % 4 === 3 ? 255 : (i * 37) % 256));
  const context = context2d(32, 32);
  context.putImageData(new ImageData(data, 32, 32), 0, 0);
  return context.getImageData(0, 0, 32, 32).data.every((value, i) => value === data[i]);
}

function context2d(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  // Read often: kept in memory, where no graphics card rounds.
  return canvas.getContext("2d", { willReadFrequently: true });
}

/** The pixels of a file, upright and in sRGB as the browser decodes them; a sentence as an error where it cannot. */
async function decoded(file) {
  if (!file.size) throw new Error(`${file.name} is empty. Choose another file.`);
  if (file.size > MAX_BYTES) throw new Error(`${file.name} has ${megabytes(file.size)}; this page opens up to ${megabytes(MAX_BYTES)}. Choose a smaller file.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new Error(`${file.name} is no image that this browser can open. Choose a PNG, JPEG, WebP, AVIF or GIF file.`);
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    bitmap.close();
    throw new Error(`${file.name} has ${width} by ${height} pixels; this page opens up to ${MAX_PIXELS / 1e6} million. Choose a smaller image.`);
  }
  const context = context2d(width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { data: context.getImageData(0, 0, width, height).data, width, height, channels: 4 };
}

async function timed(task) {
  const start = performance.now();
  return [await task(), performance.now() - start];
}

/** Show what the model makes of a file; of several that come meanwhile, the last one. */
async function show(file) {
  if (busy) return void (waiting = file);
  busy = true;
  fail("");
  say(`Reading ${file.name}`);
  try {
    const [image, decode] = await timed(() => decoded(file));
    const config = { ...settings, num_channels: about.channels };
    const [pixels, prepare] = await timed(() => pixelValues(image, config));
    const run = await session(engine);
    const outputs = await run(pixels);
    const runs = [];
    while (runs.length < 3 || (runs.length < 21 && runs.reduce((sum, one) => sum + one) < 200)) runs.push((await timed(() => run(pixels)))[1]);
    const model = runs.sort((a, b) => a - b)[runs.length >> 1];
    shown = { file, image, pixels, outputs, runs: runs.length, bytes: prepared(image, config), milliseconds: { model, prepare, decode } };
    draw();
    say(`${file.name}, ${image.width} by ${image.height} pixels: ${summary()}`);
  } catch (error) {
    fail(error.message || String(error));
    say("");
  } finally {
    busy = false;
    const next = waiting;
    waiting = undefined;
    if (next) await show(next);
  }
}

// ---- Drawing

function say(text) {
  $("#status").textContent = text;
}

function fail(text) {
  $("#error").textContent = text;
  $("#error").hidden = !text;
}

function make(tag, className, ...content) {
  const element = Object.assign(document.createElement(tag), { className });
  element.append(...content);
  return element;
}

function ranked(scores) {
  return [...scores].map((score, index) => ({ score, index })).sort((a, b) => b.score - a.score);
}

/** The five best classes with their probabilities, or the images of the index nearest by cosine. */
function best() {
  if (about.labels) {
    const logits = shown.outputs.logits.data;
    const highest = Math.max(...logits);
    const powers = Array.from(logits, (one) => (about.multi_label ? 1 / (1 + Math.exp(-one)) : Math.exp(one - highest)));
    const total = about.multi_label ? 1 : powers.reduce((sum, one) => sum + one, 0);
    return ranked(powers.map((one) => one / total)).slice(0, 5).map((one) => ({ ...one, label: about.labels[one.index] }));
  }
  const query = shown.outputs.pooler_output.data;
  const length = Math.hypot(...query);
  const vectors = about.index.vectors[engine.dtype];
  const scores = about.index.images.map((_, row) => query.reduce((sum, one, i) => sum + (one / length) * vectors[row * query.length + i], 0));
  return ranked(scores).slice(0, 8).map((one) => ({ ...one, ...about.index.images[one.index] }));
}

function summary() {
  const [{ label, score }] = best();
  return about.labels ? `${label}, ${percent(score)}.` : `nearest is ${label}, cosine ${score.toFixed(3)}.`;
}

function draw() {
  document.querySelectorAll(".empty").forEach((one) => (one.hidden = true));
  for (const selector of ["#result ol", ".views", "#cost dl", "#runs", "#save"]) $(selector).hidden = false;
  drawBest();
  drawPixels();
  drawAttention();
  const { model, prepare, decode } = shown.milliseconds;
  for (const [name, value] of Object.entries({ model, prepare, decode })) $(`#${name}-ms`).textContent = value.toFixed(value < 10 ? 2 : 0);
  $("#runs").textContent = `Model: median of ${shown.runs} runs in ${engine.name}, one image each.`;
}

function drawBest() {
  const list = $("#result ol");
  list.className = about.labels ? "bars" : "nearest";
  list.replaceChildren(
    ...best().map(({ label, score, file }) => {
      const share = about.labels ? percent(score) : `cosine ${score.toFixed(3)}`;
      const [name, value] = [make("span", "label", label), make("span", "share", share)];
      if (!about.labels) return make("li", "", Object.assign(new Image(), { src: file, alt: "" }), name, value);
      const fill = make("span", "");
      fill.style.width = `${100 * score}%`;
      return make("li", "", name, value, make("div", "bar", fill));
    }),
  );
}

/** Draw pixels of a small canvas at a whole multiple, so that each is a square. */
function enlarge(canvas, small) {
  const times = Math.ceil(SMALLEST_CANVAS / Math.min(small.width, small.height));
  Object.assign(canvas, { width: small.width * times, height: small.height * times });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function drawPixels() {
  enlarge($("#pixels"), painted(shown.bytes.width, shown.bytes.height, colour));
  $("#pixels-size").textContent = `${shown.bytes.width} by ${shown.bytes.height} pixels`;
}

function painted(width, height, paint) {
  const context = context2d(width, height);
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set([...paint(i), 255], i * 4);
  context.putImageData(image, 0, 0);
  return context.canvas;
}

function colour(pixel) {
  const { data, channels } = shown.bytes;
  return [0, 1, 2].map((i) => data[pixel * channels + (channels === 3 ? i : 0)]);
}

/** Shares of the attention of the class token for each patch, in the layer and head that are chosen. */
function attention() {
  const [, , heads, patches] = shown.outputs.attention.dims;
  const [layer, head] = [$("#layer").value - 1, $("#head").value];
  const chosen = head === "mean" ? [...Array(heads).keys()] : [Number(head)];
  const from = (one) => (layer * heads + one) * patches;
  return Array.from({ length: patches }, (_, i) => chosen.reduce((sum, one) => sum + shown.outputs.attention.data[from(one) + i], 0) / chosen.length);
}

function drawAttention() {
  const shares = attention();
  const most = Math.max(...shares);
  const { width, height } = shown.bytes;
  const [rows, columns] = about.grid;
  const place = (pixel) => Math.floor((Math.floor(pixel / width) * rows) / height) * columns + Math.floor(((pixel % width) * columns) / width);
  enlarge($("#attention"), painted(width, height, (pixel) => {
    const [red, green, blue] = colour(pixel);
    const share = shares[place(pixel)] / most || 0;
    const at = Math.min(RAMP.length - 1.001, share * (RAMP.length - 1));
    const [low, part] = [Math.floor(at), at % 1];
    const grey = 0.299 * red + 0.587 * green + 0.114 * blue;
    return [0, 1, 2].map((i) => 0.35 * grey + 0.65 * (RAMP[low][i] * (1 - part) + RAMP[low + 1][i] * part));
  }));
  const peak = shares.indexOf(most);
  const head = $("#head").selectedOptions[0].text.toLowerCase();
  $("#layer-value").textContent = `${$("#layer").value} of ${about.layers}`;
  $("#most").textContent = percent(most);
  $("#attention").ariaLabel = `Attention in layer ${$("#layer").value}, ${head}: most, ${percent(most)}, in row ${Math.floor(peak / columns) + 1} and column ${(peak % columns) + 1} of ${rows} by ${columns} patches`;
}

// ---- Controls

function save() {
  const { file, image, bytes: small, pixels, outputs, milliseconds } = shown;
  const numbers = {
    file: file.name,
    size: [image.width, image.height],
    engine: engine.name,
    milliseconds,
    pixels: { shape: [small.height, small.width, small.channels], data: [...small.data] },
    pixel_values: { shape: pixels.dims, data: [...pixels.data] },
    outputs: Object.fromEntries(Object.entries(outputs).map(([name, { data, dims }]) => [name, { shape: dims, data: [...data] }])),
    best: best(),
  };
  const address = URL.createObjectURL(new Blob([JSON.stringify(numbers)], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: address, download: `${file.name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function offer(files) {
  const [file] = files;
  if (files.length > 1) fail(`One image at a time: ${file.name} is taken.`);
  if (file) {
    press(null);
    show(file);
  }
}

function press(button) {
  document.querySelectorAll("#examples button").forEach((one) => (one.ariaPressed = String(one === button)));
}

function examples() {
  const list = $("#examples ul");
  for (const { file, label } of about.examples) {
    const button = Object.assign(make("button", "", Object.assign(new Image(), { src: file, alt: label })), { type: "button", ariaPressed: "false" });
    button.addEventListener("click", async () => {
      const response = await fetch(file).catch(() => null);
      if (!response?.ok) return fail(`The example ${label} could not be loaded.`);
      press(button);
      show(new File([await response.blob()], file.split("/").pop()));
    });
    list.append(make("li", "", button));
  }
  $("#examples").hidden = !about.examples.length;
}

async function change(all) {
  const before = engine;
  const chosen = all.find(({ id }) => id === $("#engine").value);
  fail("");
  try {
    await session(chosen);
    engine = chosen;
    if (shown) await show(shown.file);
  } catch (error) {
    $("#engine").value = before?.id ?? "";
    fail(`${chosen.name} could not be started (${error.message || error}).${before ? ` ${before.name} is used.` : " Reload the page to try again."}`);
  }
}

function listen(all) {
  $("#file").addEventListener("change", (event) => {
    offer([...event.target.files]);
    event.target.value = ""; // the same file can be chosen again
  });
  addEventListener("paste", (event) => offer([...event.clipboardData.files]));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  for (const name of ["dragleave", "drop"]) addEventListener(name, () => document.body.classList.remove("dragging"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) offer([...event.dataTransfer.files]);
    else fail("What was dropped is no file. Save the image first, then drop the file.");
  });
  for (const name of ["#layer", "#head"]) $(name).addEventListener("input", drawAttention);
  $("#engine").addEventListener("change", () => change(all));
  $("#save").addEventListener("click", save);
}

/** Let the service worker keep the files of this page; it does from the next file on. */
async function keepFiles() {
  if (!navigator.serviceWorker) return;
  await navigator.serviceWorker.register("sw.js");
  if (navigator.serviceWorker.controller) return;
  const controlled = new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
  await Promise.race([controlled, new Promise((resolve) => setTimeout(resolve, 3000))]);
}

async function keepRest() {
  if (!navigator.serviceWorker?.controller) {
    $("#offline").textContent = "This page needs a network each time: the browser keeps no files for it here.";
    return;
  }
  for (const file of about.files) await (await fetch(file)).arrayBuffer();
  $("#offline").textContent = "This page works offline from now on.";
}

async function start() {
  await keepFiles().catch(() => {});
  [about, settings] = await Promise.all([json("page.json"), json("model/preprocessor_config.json")]);
  $("#layer").max = $("#layer").value = about.layers;
  $("#head").append(new Option(`Mean of ${about.heads}`, "mean"), ...Array.from({ length: about.heads }, (_, i) => new Option(`Head ${i + 1}`, i)));
  for (const [dtype, file] of Object.entries(about.index?.vectors ?? {})) about.index.vectors[dtype] = new Float32Array(await bytes(file));
  const all = await engines();
  await change(all);
  if (!engine) return say("");
  $("#engine").disabled = $("#file").disabled = false;
  examples();
  listen(all);
  say(canvasIsExact() ? "" : "This browser changes the pixels that a page reads, so that results differ a little from Python's.");
  await keepRest().catch(() => {});
}

start().catch((error) => {
  say("");
  $("#progress").hidden = true;
  fail(`This page could not start: ${error.message || error}`);
});
