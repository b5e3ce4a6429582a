/** bfloat16 is the high half of a float32: of both ways between them only the one to fewer bits can lose something. */

export function widenBfloat16(from: Uint16Array, to: Float32Array): void {
  const words = new Uint32Array(to.buffer, to.byteOffset, to.length);
  for (let i = 0; i < from.length; i++) words[i] = (from[i] as number) << 16;
}

/** Of float32 values that are bfloat16 ones. */
export function narrowBfloat16(from: Float32Array, to: Uint16Array): void {
  const words = new Uint32Array(from.buffer, from.byteOffset, from.length);
  for (let i = 0; i < words.length; i++) to[i] = (words[i] as number) >>> 16;
}
