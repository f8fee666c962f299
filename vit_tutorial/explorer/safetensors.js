// Weights from the bytes of a .safetensors file: the header's length in 8 bytes, a header in JSON,
// the numbers.

// A number of half precision from its 16 bits.
function halfOf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1024 + fraction) * POWERS[exponent];
}

// As `Float32Array.from`, which takes ten times as long.
function floatsFrom(numbers, of) {
  const floats = new Float32Array(numbers.length);
  for (let i = 0; i < numbers.length; i++) floats[i] = of(numbers[i]);
  return floats;
}

const POWERS = Float64Array.from({ length: 31 }, (_, exponent) => 2 ** (exponent - 25));

const READERS = { // type -> from the bytes of a tensor to its numbers
  F64: (buffer) => Float32Array.from(new Float64Array(buffer)),
  F32: (buffer) => new Float32Array(buffer),
  F16: (buffer) => floatsFrom(new Uint16Array(buffer), halfOf),
  // the upper half of a float32
  BF16: (buffer) => new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer),
};

// Every tensor by its name: { shape, data (Float32Array) }.
export function readSafetensors(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = bytes.length < 8 ? Infinity : 8 + Number(view.getBigUint64(0, true));
  if (start > bytes.length) throw new Error("expected the bytes of a .safetensors file, whole");
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const entries = Object.entries(header).filter(([name]) => name !== "__metadata__");
  return Object.fromEntries(entries.map(([name, { dtype, shape, data_offsets: [from, to] }]) => {
    if (!(dtype in READERS)) throw new Error(`${name} is of type ${dtype}: expected ${Object.keys(READERS).join(", ")}`);
    if (start + to > bytes.length) throw new Error(`the file of the weights ends before ${name} does`);
    const at = bytes.byteOffset + start;
    return [name, { shape, data: READERS[dtype](bytes.buffer.slice(at + from, at + to)) }]; // a copy is aligned
  }));
}
