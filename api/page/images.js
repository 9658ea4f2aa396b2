// Rows that are images, drawn as a square of them.

import { element } from "./elements.js";

/** Draw images, given as columns of values: channel by channel, line by line; `ranges` has each channel's least and most. */
export function drawImages(canvas, columns, [channels, height, width], ranges) {
  const count = Math.min(columns[0].length, 64);
  const side = Math.ceil(Math.sqrt(count));
  const image = element("canvas", { width: side * (width + 1), height: side * (height + 1) });
  const context = image.getContext("2d");
  const colours = channels === 3 ? [0, 1, 2] : [0, 0, 0];
  for (let row = 0; row < count; row += 1) {
    const pixels = context.createImageData(width, height);
    for (let place = 0; place < width * height; place += 1) {
      colours.forEach((channel, part) => {
        const { min, max } = ranges[channel];
        pixels.data[4 * place + part] = (255 * (columns[channel * width * height + place][row] - min)) / (max - min);
      });
      pixels.data[4 * place + 3] = 255;
    }
    context.putImageData(pixels, (row % side) * (width + 1), Math.floor(row / side) * (height + 1));
  }
  const target = canvas.getContext("2d");
  target.imageSmoothingEnabled = false;
  target.clearRect(0, 0, canvas.width, canvas.height);
  target.drawImage(image, 0, 0, canvas.width, (canvas.width * image.height) / image.width);
}
