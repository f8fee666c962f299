// The picture that is shown: what the network was given, sharp, with its patches hidden and shuffled.

const SIDE = 512; // pixels of its longer side
const HATCH = 6; // pixels between the lines where a token was dropped

// The view of the network on a decoded image (4 channels), as a canvas; outside of the image, grey.
export function viewOf({ width, height, data }, [left, top, right, bottom], [rows, columns]) {
  const whole = document.createElement("canvas");
  [whole.width, whole.height] = [width, height];
  whole.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
  const view = document.createElement("canvas");
  const scale = SIDE / Math.max(rows, columns);
  [view.width, view.height] = [Math.round(columns * scale), Math.round(rows * scale)];
  const pen = view.getContext("2d");
  pen.fillStyle = "#808080";
  pen.fillRect(0, 0, view.width, view.height);
  pen.imageSmoothingQuality = "high";
  pen.imageSmoothingEnabled = width > 32; // small pictures are shown as they are
  const [across, down] = [view.width / (right - left), view.height / (bottom - top)];
  pen.drawImage(whole, -left * across, -top * down, width * across, height * down);
  return view;
}

// What the network reads in the place of hidden patches, as a canvas of its own few pixels.
function pixelsOf(input, { mean, std }, [height, width]) {
  const image = new ImageData(width, height);
  const area = width * height;
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) {
      const from = Math.min(c, mean.length - 1);
      image.data[4 * i + c] = 255 * (input[from * area + i] * std[from] + mean[from]);
    }
    image.data[4 * i + 3] = 255;
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function hatch(pen, x, y, width, height) {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, width, height);
  pen.clip();
  pen.fillStyle = "#ffffff";
  pen.fillRect(x, y, width, height);
  pen.strokeStyle = "#8a8a8a";
  for (let at = -height; at < width; at += HATCH) {
    pen.moveTo(x + at, y + height);
    pen.lineTo(x + at + height, y);
  }
  pen.stroke();
  pen.restore();
}

export function pictureWith(view, network, changes) {
  const [rows, columns] = network.grid;
  const picture = document.createElement("canvas");
  [picture.width, picture.height] = [view.width, view.height];
  const pen = picture.getContext("2d");
  const [wide, high] = [view.width / columns, view.height / rows];
  const hidden = new Set(changes.hidden);
  const small = hidden.size && changes.how !== "drop" ? pixelsOf(network.inputWith(changes), network.reading, network.sides) : null;
  pen.imageSmoothingEnabled = false;
  const of = (patch) => [(patch % columns) * wide, Math.floor(patch / columns) * high];
  for (let place = 0; place < rows * columns; place++) {
    const patch = network.patchIn(changes, place);
    const [[fromX, fromY], [x, y]] = [of(patch), of(place)];
    if (!hidden.has(patch)) pen.drawImage(view, fromX, fromY, wide, high, x, y, wide, high);
    else if (!small) hatch(pen, x, y, wide, high);
    else {
      const shrink = small.width / view.width;
      pen.drawImage(small, fromX * shrink, fromY * shrink, wide * shrink, high * shrink, x, y, wide, high);
    }
  }
  return picture;
}
