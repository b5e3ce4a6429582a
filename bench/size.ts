/** B rows in a batch, embeddings of length D, C classes. */
export interface Size {
  readonly B: number;
  readonly D: number;
  readonly C: number;
}

export function parseSize(text: string): Size {
  const [B, D, C, ...rest] = text.split(',').map(Number);
  if (![B, D, C].every((value) => Number.isInteger(value) && Number(value) > 0) || rest.length > 0)
    throw new Error(`a size is B,D,C, received ${text}`);
  return { B, D, C } as Size;
}

export function sizeName({ B, D, C }: Size): string {
  return `${B},${D},${C}`;
}
