// COCO compressed run lengths (docs/protocol.md, masks) to labels on a picture.

/** Calls paint(start, end) for every run of ones, in column-major order. */
export function runs(counts, paint) {
  const lengths = [];
  let at = 0;
  let place = 0;
  while (place < counts.length) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more && place < counts.length) {
      const code = counts.charCodeAt(place++) - 48;
      value |= (code & 31) << shift;
      more = (code & 32) !== 0;
      shift += 5;
      if (!more && code & 16) value |= -1 << shift;
    }
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
    if (lengths.length % 2 === 0) paint(at, at + value);
    at += value;
  }
}

/** Writes `label` wherever the mask is one; labels is u8 [h * w], row-major. */
export function label(labels, width, height, counts, value) {
  runs(counts, (start, end) => {
    let x = Math.floor(start / height);
    let y = start - x * height;
    const last = Math.min(end, width * height);
    for (let at = start; at < last; at++) {
      labels[y * width + x] = value;
      if (++y === height) { y = 0; x++; }
    }
  });
}

const LARGE = 0.15;

function packed([red, green, blue], alpha) { return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0; }

/** Whether nothing lies in this direction; the gap beside another region is not nothing. */
function ends(labels, at, step) { return labels[at + step] === 0 && !labels[at + 3 * step]; }

/**
 * The labels as RGBA: tinted inside (the less, the larger), solid along the outlines. colours: [r, g, b] per label; pixels: u32 [h * w],
 * little endian. What lies on a large region has an outline of its own. `mode`: "fill", "outline" or "off"; `lit` is the label that is
 * tinted more, in any mode (0: none).
 */
export function tint(labels, width, height, colours, pixels, mode = "fill", lit = 0) {
  const areas = new Uint32Array(256);
  for (let at = 0; at < labels.length; at++) areas[labels[at]]++;
  const isLarge = (value) => areas[value] > LARGE * labels.length;
  const large = Uint8Array.from(colours, (_, value) => (isLarge(value) ? 1 : 0));
  const fills = Uint32Array.from(colours, (colour, value) => (value === lit && lit ? packed(colour, 130) : mode !== "fill" ? 0 : packed(colour, isLarge(value) ? 22 : 76)));
  const lines = Uint32Array.from(colours, (colour, value) => (mode === "off" && value !== lit ? 0 : packed(colour, 235)));
  const down = 2 * width;
  for (let y = 0, at = 0; y < height; y++) {
    const isEdge = y < 2 || y >= height - 2;
    for (let x = 0; x < width; x++, at++) {
      const value = labels[at];
      if (value === 0) { pixels[at] = 0; continue; }
      let inside = !isEdge && x > 1 && x < width - 2;
      if (inside) {
        const left = labels[at - 2], right = labels[at + 2], above = labels[at - down], below = labels[at + down];
        inside = (left === value && right === value && above === value && below === value) ||
          (large[value] === 1 && !ends(labels, at, -2) && !ends(labels, at, 2) && !ends(labels, at, -down) && !ends(labels, at, down));
      }
      pixels[at] = inside ? fills[value] : lines[value];
    }
  }
}
