// Images as `pixel_values`, as Pillow and our image processor prepare them: antialiased resize in Pillow's integers, on
// white where transparent. Resizers of browsers and of transformers.js are not antialiased or not equal to it.
//
//     import { pixelValues } from "./preprocess.mjs";
//     const { data, dims } = pixelValues({ data, width, height, channels: 4 }, preprocessorConfig);
//
// `data` are the bytes of a decoded image, row by row: of a canvas (`getImageData`, 4 channels), of sharp's `raw()`, or
// of a `RawImage`. One channel is grey, two are grey and alpha, three RGB, four RGBA.

const PRECISION_BITS = 32 - 8 - 2;
const LUMA = [19595, 38470, 7471]; // ITU-R 601, as Pillow's L

const bicubic = (x) => {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
};
const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
// By Pillow's numbers: a function and how far it reaches.
const FILTERS = {
  1: [(x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0), 3],
  2: [(x) => Math.max(0, 1 - Math.abs(x)), 1],
  3: [bicubic, 2],
  4: [(x) => (x > -0.5 && x <= 0.5 ? 1 : 0), 0.5],
  5: [(x) => (x === 0 ? 1 : Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI))), 1],
};

// For each pixel of the output: the first pixel of the input that it reads, and the integer weights of those from it on.
function coefficients(from, to, [filter, reach]) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = reach * stretch;
  return Array.from({ length: to }, (_, index) => {
    const center = (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const weights = [];
    for (let i = start; i < end; i++) weights.push(filter((i - center + 0.5) * (1 / stretch)));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const whole = weights.map((weight) => {
      const scaled = (total === 0 ? weight : weight / total) * (1 << PRECISION_BITS);
      return Math.trunc(scaled + (scaled < 0 ? -0.5 : 0.5));
    });
    return { start, weights: whole };
  });
}

// One pass along an axis: `count` lines of `to` pixels, whose neighbours on the axis are `step` bytes apart.
function pass(source, target, from, to, filter, lines, step, sourceLine, targetLine) {
  coefficients(from, to, filter).forEach(({ start, weights }, index) => {
    for (let line = 0; line < lines; line++) {
      let sum = 1 << (PRECISION_BITS - 1);
      const first = sourceLine(line) + start * step;
      for (let i = 0; i < weights.length; i++) sum += source[first + i * step] * weights[i];
      target[targetLine(line) + index * step] = Math.min(255, Math.max(0, Math.floor(sum / (1 << PRECISION_BITS))));
    }
  });
}

/** Resize bytes of an image as `PIL.Image.resize` does, to the bit; `resample` is Pillow's number (2: bilinear). */
export function resize({ data, width, height, channels }, toWidth, toHeight, resample = 2) {
  const filter = FILTERS[resample];
  if (!filter) throw new Error(`Expected a resample of ${Object.keys(FILTERS)}, got ${resample}.`);
  const horizontal = (image) => {
    const found = { ...image, data: new Uint8Array(image.height * toWidth * channels), width: toWidth };
    const at = (width) => (line) => Math.trunc(line / channels) * width * channels + (line % channels);
    pass(image.data, found.data, width, toWidth, filter, image.height * channels, channels, at(width), at(toWidth));
    return found;
  };
  const vertical = (image) => {
    const row = image.width * channels;
    const found = { ...image, data: new Uint8Array(toHeight * row), height: toHeight };
    pass(image.data, found.data, height, toHeight, filter, row, row, (line) => line, (line) => line);
    return found;
  };
  const passes = [...(toWidth === width ? [] : [horizontal]), ...(toHeight === height ? [] : [vertical])];
  // Each pass rounds, so that their order counts. Since Pillow 13 the vertical one is first where it removes more.
  if (height - toHeight > 2 * Math.max(0, width - toWidth)) passes.reverse();
  return passes.reduce((image, one) => one(image), { data, width, height, channels });
}

/** Composite an image of 1 to 4 channels over a colour and convert it to 3 channels, or 1, as Pillow does. */
export function opaque({ data, width, height, channels }, toChannels = 3, background = [255, 255, 255]) {
  if (!(data instanceof Uint8Array || data instanceof Uint8ClampedArray)) throw new Error("Expected bytes, 0 to 255.");
  if (![1, 2, 3, 4].includes(channels) || data.length !== width * height * channels || !data.length)
    throw new Error(`Expected width * height * channels bytes, 1 to 4 channels, got ${data.length} for ${width} x ${height} x ${channels}.`);
  const [isGrey, hasAlpha] = [channels < 3, channels % 2 === 0];
  const found = new Uint8Array(width * height * toChannels);
  const over = (value, alpha, behind) => {
    if (alpha === 255) return value;
    if (alpha === 0) return behind;
    const sum = value * alpha * 128 + behind * (255 - alpha) * 128 + (128 << 7);
    return ((sum >> 8) + sum) >> 8 >> 7;
  };
  // Without an array for each pixel: a photograph has millions.
  for (let pixel = 0, at = 0; pixel < width * height; pixel++, at += channels) {
    const alpha = hasAlpha ? data[at + channels - 1] : 255;
    const red = over(data[at], alpha, background[0]);
    const green = over(data[isGrey ? at : at + 1], alpha, background[1]);
    const blue = over(data[isGrey ? at : at + 2], alpha, background[2]);
    if (toChannels === 3) {
      found[pixel * 3] = red;
      found[pixel * 3 + 1] = green;
      found[pixel * 3 + 2] = blue;
    } else if (isGrey && alpha === 255) found[pixel] = red;
    else found[pixel] = (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + 0x8000) >> 16;
  }
  return { data: found, width, height, channels: toChannels };
}

// Size after the resize, for `{height, width}` and `{shortest_edge}`.
function targetSize({ width, height }, size) {
  if (size.height) return [size.width, size.height];
  if (!size.shortest_edge) throw new Error(`Expected a size of height and width, or shortest_edge, got ${JSON.stringify(size)}.`);
  const long = Math.trunc((size.shortest_edge * Math.max(width, height)) / Math.min(width, height));
  return width < height ? [size.shortest_edge, long] : [long, size.shortest_edge];
}

function centerCrop({ data, width, height, channels }, crop) {
  const [left, top] = [Math.floor((width - crop.width) / 2), Math.floor((height - crop.height) / 2)];
  if (left < 0 || top < 0) throw new Error(`Expected at least ${crop.width} x ${crop.height} pixels to crop, got ${width} x ${height}.`);
  const found = new Uint8Array(crop.width * crop.height * channels);
  for (let row = 0; row < crop.height; row++) {
    const start = ((top + row) * width + left) * channels;
    found.set(data.subarray(start, start + crop.width * channels), row * crop.width * channels);
  }
  return { data: found, ...crop, channels };
}

/** The image at the size of the model, of 3 channels, or of 1 for a `num_channels` of 1: bytes, not normalised. */
export function prepared(image, config) {
  let found = opaque(image, config.num_channels ?? 3, config.background_color ?? undefined);
  if (config.do_resize !== false) found = resize(found, ...targetSize(found, config.size), config.resample ?? 2);
  if (config.do_center_crop) found = centerCrop(found, config.crop_size);
  return found;
}

/** `pixel_values` of one image: `data` (a Float32Array, planes of channels) and `dims`, [1, channels, height, width]. */
export function pixelValues(image, config) {
  const { data, width, height, channels } = prepared(image, config);
  const pixels = width * height;
  const values = new Float32Array(channels * pixels);
  const scale = config.do_rescale === false ? 1 : (config.rescale_factor ?? 1 / 255);
  const [mean, std] = config.do_normalize === false ? [[], []] : [config.image_mean, config.image_std];
  for (let channel = 0; channel < channels; channel++) {
    const [low, unit] = [Math.fround(mean[channel] ?? 0), Math.fround(std[channel] ?? 1)];
    for (let i = 0; i < pixels; i++) {
      const value = Math.fround(data[i * channels + channel] * scale);
      values[channel * pixels + i] = Math.fround(Math.fround(value - low) / unit);
    }
  }
  return { data: values, dims: [1, channels, height, width] };
}
