/** Image files as small grey images. PGM, PNG, JPEG and whatever else @napi-rs/image decodes. */

import { readFile } from 'node:fs/promises';
import { JsColorType, ResizeFilterType, ResizeFit, Transformer } from '@napi-rs/image';

export interface ImageSize {
  readonly width: number;
  readonly height: number;
}

export const imageFile = /\.(pgm|png|jpe?g)$/i;

const twoBytes = new Set([JsColorType.L16, JsColorType.La16, JsColorType.Rgb16, JsColorType.Rgba16]);

/** `size` scaled down so that its longer side is `longest`; never up. */
export function fitted({ width, height }: ImageSize, longest: number): ImageSize {
  const factor = Math.min(1, longest / Math.max(width, height));
  const scaled = (side: number) => Math.max(1, Math.round(side * factor));
  return { width: scaled(width), height: scaled(height) };
}

export async function sizeOf(file: string): Promise<ImageSize> {
  return decoding(file, async (image) => {
    const { width, height } = await image.metadata();
    return { width, height };
  });
}

/**
 * The image turned upright, cropped about its middle to the shape of `size`, and scaled to it: grey values in
 * [0, 1], row by row. Transparency is ignored.
 */
export async function readGrey(file: string, size: ImageSize): Promise<Float32Array> {
  return decoding(file, async (image) => {
    const { colorType } = await image.metadata();
    const bytes = await image
      .rotate()
      .grayscale()
      .resize({ ...size, filter: ResizeFilterType.Triangle, fit: ResizeFit.Cover })
      .rawPixels();
    // One or two channels (grey, alpha) of one or two bytes, the machine's order.
    const pixels = size.width * size.height;
    const stride = bytes.length / pixels;
    const wide = twoBytes.has(colorType);
    const grey = (at: number) => (wide ? bytes.readUInt16LE(at) / 0xffff : bytes.readUInt8(at) / 0xff);
    return Float32Array.from({ length: pixels }, (_, i) => grey(i * stride));
  });
}

async function decoding<T>(file: string, read: (image: Transformer) => Promise<T>): Promise<T> {
  const contents = await readFile(file);
  try {
    return await read(new Transformer(contents));
  } catch (cause) {
    throw new Error(`${file} cannot be decoded: ${(cause as Error).message}`, { cause });
  }
}
