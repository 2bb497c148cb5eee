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

/** The labels as RGBA: tinted inside, solid along the outlines. colours: [r, g, b] per label. */
export function tint(labels, width, height, colours, pixels) {
  pixels.fill(0);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const value = labels[at];
      if (!value) continue;
      const inside = x > 0 && x < width - 1 && y > 0 && y < height - 1 && labels[at - 1] === value &&
        labels[at + 1] === value && labels[at - width] === value && labels[at + width] === value;
      const colour = colours[value];
      const to = at * 4;
      pixels[to] = colour[0];
      pixels[to + 1] = colour[1];
      pixels[to + 2] = colour[2];
      pixels[to + 3] = inside ? 70 : 255;
    }
  }
}
