// An image file of a person, made small in the browser before it is sent anywhere.

const LONGEST = 1600; // pixels of a side: more than any network here looks at

// Returns the bytes of a PNG or JPEG, upright and no larger than LONGEST.
export async function openImage(file) {
  const url = URL.createObjectURL(file);
  try {
    const picture = new Image();
    picture.src = url;
    await picture.decode().catch(() => {
      throw new Error(`${file.name} is no image that this browser can open. Try a JPEG or PNG file.`);
    });
    const [width, height] = [picture.naturalWidth || 512, picture.naturalHeight || 512]; // an SVG may have none
    const smaller = Math.min(1, LONGEST / Math.max(width, height));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height].map((side) => Math.max(1, Math.round(side * smaller)));
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, file.type === "image/jpeg" ? "image/jpeg" : "image/png", 0.95));
    return await blob.arrayBuffer();
  } finally {
    URL.revokeObjectURL(url);
  }
}
