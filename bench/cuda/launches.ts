/**
 * The launches of the report: each kernel once, at a size of real use, with the limits of its class and the bytes that it
 * cannot do without. A new kernel needs a line here and one in launches.cc, a new kind of kernel a class of limits.
 */

import type { Size } from '../size.js';

/** What may at most, or for blocks must at least, be; in the units of the report's rows. */
export interface Gates {
  readonly registers?: number;
  readonly spillBytes?: number;
  readonly sharedBytes?: number;
  readonly blocksPerSm?: number;
  readonly serialized?: number;
  readonly ptxPerMmaLoop?: number;
  readonly ptxPerMma?: number;
  readonly wavefrontRatio?: number;
  readonly sectorRatioLoad?: number;
  readonly sectorRatioStore?: number;
  readonly l2BytesPerMma?: number;
}

const KiB = 1024;
const small: ReadonlySet<string> = new Set(['86', '89', '120']);
const sectors = { wavefrontRatio: 1.02, sectorRatioLoad: 1.02, sectorRatioStore: 1.05 };
const turing: Gates = { spillBytes: 0, wavefrontRatio: 1.05 };

/** `small` architectures have 100 KiB of shared memory. */
function tileGates(architecture: string): Gates {
  if (architecture === '75') return turing;
  return {
    ...{ registers: 255, spillBytes: 0, blocksPerSm: 2 },
    sharedBytes: small.has(architecture) ? 48 * KiB : 80 * KiB,
    ...{ ptxPerMmaLoop: 2.15, ptxPerMma: 2.7, ...sectors, l2BytesPerMma: 68 },
  };
}

/** Two halves: three products for an element. */
function splitGates(architecture: string): Gates {
  if (architecture === '75') return turing;
  return {
    ...{ registers: 255, spillBytes: 0, blocksPerSm: 1, sharedBytes: 128 * KiB },
    ...{ ptxPerMmaLoop: 2.6, ptxPerMma: 3.0, ...sectors, l2BytesPerMma: 68 },
  };
}

const hopper: Gates = {
  ...{ registers: 168, spillBytes: 0, serialized: 0, blocksPerSm: 1, sharedBytes: 227 * KiB },
  ...{ ptxPerMmaLoop: 1.0, ptxPerMma: 1.7, sectorRatioStore: 1.05 },
};

/** By class of kernels and architecture. */
export const gates = {
  tile: tileGates,
  // Which row of a class is its largest: some eight instructions an element more, and on Hopper the last registers.
  subCenters: (architecture: string): Gates =>
    architecture === '75' ? turing : { ...tileGates(architecture), ptxPerMma: 5.6 },
  splitSubCenters: (architecture: string): Gates =>
    architecture === '75' ? turing : { ...splitGates(architecture), ptxPerMma: 3.6 },
  hopperSubCenters: (): Gates => ({ ...hopper, ptxPerMma: 4.6, l2BytesPerMma: 40 }),
  // Counts beside sums and maxima: two instructions more an element, and the last registers.
  counting: (architecture: string): Gates =>
    architecture === '75' ? turing : { ...tileGates(architecture), ptxPerMma: 3.2 },
  // Each exponent and each slope by a threshold: some ten instructions more an element.
  transformed: (architecture: string): Gates =>
    architecture === '75' ? turing : { ...tileGates(architecture), ptxPerMma: 4.4 },
  // A power by four multiplications, softplus and sigmoid: some 30 instructions an element.
  binary: (architecture: string): Gates =>
    architecture === '75' ? turing : { ...tileGates(architecture), ptxPerMma: 6.0 },
  splitBinary: (architecture: string): Gates =>
    architecture === '75' ? turing : { ...splitGates(architecture), ptxPerMma: 3.5 },
  hopperBinary: (): Gates => ({ ...hopper, ptxPerMma: 4.8, l2BytesPerMma: 40 }),
  binarySubCenters: (architecture: string): Gates =>
    architecture === '75' ? turing : { ...tileGates(architecture), ptxPerMma: 7.0 },
  splitBinarySubCenters: (architecture: string): Gates =>
    architecture === '75' ? turing : { ...splitGates(architecture), ptxPerMma: 3.9 },
  hopperBinarySubCenters: (): Gates => ({ ...hopper, ptxPerMma: 5.9, l2BytesPerMma: 40 }),
  // No power: some 16.
  firstPower: (architecture: string): Gates =>
    architecture === '75' ? turing : { ...tileGates(architecture), ptxPerMma: 4.3 },
  hopperFirstPower: (): Gates => ({ ...hopper, ptxPerMma: 2.9, l2BytesPerMma: 40 }),
  hopperTransformed: (): Gates => ({ ...hopper, ptxPerMma: 3.4, l2BytesPerMma: 40 }),
  hopperCounting: (): Gates => ({ ...hopper, ptxPerMma: 1.85, l2BytesPerMma: 40 }),
  split: splitGates,
  update: (): Gates => ({
    ...{ registers: 255, spillBytes: 0, blocksPerSm: 1, sharedBytes: 160 * KiB },
    ...{ ptxPerMmaLoop: 2.3, sectorRatioStore: 1.25 },
  }),
  // The left operand stays in shared memory, or comes with each tile anew.
  hopper: (): Gates => ({ ...hopper, l2BytesPerMma: 40 }),
  hopperStreamed: (): Gates => ({ ...hopper, l2BytesPerMma: 68 }),
  hopperWide: (): Gates => ({ ...hopper, l2BytesPerMma: 50 }),
  row: (): Gates => ({ spillBytes: 0 }),
} as const satisfies Record<string, (architecture: string) => Gates>;

/** What a block multiplies: rows x columns, from operands of one or two 16-bit halves. */
export interface Tile {
  readonly rows: number;
  readonly columns: number;
  readonly halves: 1 | 2;
}

export interface Launch {
  /** As bench/cuda/launches.cc takes it: the kernel's name and perhaps `:variant`. */
  readonly kernel: string;
  readonly size: Size;
  readonly gates: keyof typeof gates;
  readonly tile?: Tile;
  /** The module's variable that holds its dynamic shared memory. */
  readonly sharedVariable?: string;
  /** Operands of products, each byte once. */
  readonly operandBytes: number;
  /** Everything else: each byte that is read, and each that is written. */
  readonly otherBytes: number;
  /** Of those, what is read and then written: the software GPU counts each byte that is touched once. */
  readonly updatedBytes: number;
  /** Whether machine code of architectures without PTX in the image has the shape that the PTX for sm_80 has. */
  readonly sameShape: boolean;
}

export const launchName = ({ kernel }: Launch): string => kernel.split(':')[0] ?? kernel;

/** Partial sums of negatives: two for each 8 tiles of 128 classes; products of dX: one for each 16 tiles. */
const partials = ({ C }: Size) => 2 * Math.ceil(C / 1024);
const products = ({ C }: Size) => Math.ceil(C / 2048);

const size: Size = { B: 512, D: 512, C: 2048 };

/** Gates of the kernels with sub-centres, by those of the kernels without, where they are not just for sub-centres. */
const subCenterGates: Partial<Record<Launch['gates'], Launch['gates']>> = {
  binary: 'binarySubCenters',
  splitBinary: 'splitBinarySubCenters',
};

/** Gates of the kernels on wgmma, by those of the kernels on mma.sync. */
const hopperGates: Partial<Record<Launch['gates'], Launch['gates']>> = {
  binary: 'hopperBinary',
  binarySubCenters: 'hopperBinarySubCenters',
  counting: 'hopperCounting',
  firstPower: 'hopperFirstPower',
  subCenters: 'hopperSubCenters',
  transformed: 'hopperTransformed',
};
const nearest = 10;

function tileLaunches(type: 'float16' | 'bfloat16' | 'float32'): Launch[] {
  const { B, D, C } = size;
  const halves = type === 'float32' ? 2 : 1;
  const bytes = 2 * halves;
  const common = { size, gates: halves === 2 ? ('split' as const) : ('tile' as const) };
  const square = { rows: 128, columns: 128, halves } as const;
  const logits = bytes * (B + C) * D;
  const tile = (kernel: string, operandBytes: number, otherBytes: number): Launch => ({
    ...{ ...common, kernel: `${kernel}_${type}`, tile: square, sharedVariable: `tile_bytes_${type}` },
    ...{ operandBytes, otherBytes, updatedBytes: 0, sameShape: true },
  });
  const transformed = (kernel: string, otherBytes: number): Launch => ({
    ...tile(kernel, logits, otherBytes),
    gates: halves === 2 ? 'split' : 'transformed',
  });
  const binary = (kernel: string, otherBytes: number): Launch[] => {
    const of = tile(kernel, logits, otherBytes);
    return [
      { ...of, gates: halves === 2 ? 'splitBinary' : 'binary' },
      { ...of, kernel: `${of.kernel}:first_power`, gates: halves === 2 ? 'split' : 'firstPower' },
    ];
  };
  const ofSeveral = (launch: Launch): Launch => ({
    ...launch,
    kernel: launch.kernel.replace(`_${type}`, `_sub_centers_${type}`),
    gates: subCenterGates[launch.gates] ?? (halves === 2 ? 'splitSubCenters' : 'subCenters'),
  });
  const angles = [
    tile('negatives_angles', logits, 4 * B * (1 + partials(size))),
    tile('probabilities_angles', logits, 8 * B + bytes * B * C),
  ];
  const update = (width: number): Launch => {
    const sums = halves === 2 ? 16384 : 32768;
    const shape = { rows: sums / width, columns: width, halves } as const;
    return {
      ...{ ...common, kernel: `update_${type}_${width}`, size: { B, D: width, C }, gates: 'update' },
      ...{ tile: shape, sharedVariable: `update_bytes_${type}_${width}`, sameShape: false },
      ...{
        operandBytes: bytes * B * (C + width),
        otherBytes: (16 + bytes) * C * width,
        updatedBytes: 8 * C * width,
      },
    };
  };
  const negatives = [
    tile('negatives_hardest', logits, 4 * B * (1 + 2 * partials(size))),
    {
      ...tile('negatives_above', logits, 4 * B * (2 + 3 * partials(size))),
      gates: halves === 2 ? ('split' as const) : ('counting' as const),
    },
    ...binary('negatives_binary', 4 * B * (1 + 3 * partials(size))),
    tile('negatives_shifted', logits, 4 * B * (2 + partials(size))),
    transformed('negatives_transformed', 4 * B * (3 + 2 * partials(size))),
    transformed('negatives_transformed_hard', 4 * B * (3 + 3 * partials(size))),
  ];
  const probabilities = [
    tile('probabilities', logits, 8 * B + bytes * B * C),
    transformed('probabilities_transformed', 12 * B + bytes * B * C),
    ...binary('probabilities_binary', 8 * B + bytes * B * C),
  ];
  return [
    tile('negatives', logits, 4 * B * (1 + partials(size))),
    ...negatives,
    ...probabilities,
    ...[...negatives, ...probabilities].map(ofSeveral),
    tile('cosines', logits, 4 * B * C),
    ...(halves === 2 ? angles : []),
    tile('features_product', bytes * C * (B + D), 4 * B * D * products(size)),
    tile('weights_product', bytes * B * (C + D), 4 * C * D),
    ...[128, 256, 512].map(update),
  ];
}

/** Of compute capability 9.0; a block takes 8 tiles of classes, or all of the width. */
function hopperLaunches(type: 'float16' | 'bfloat16'): Launch[] {
  const { D } = size;
  const wide = (launch: Launch, columns: number, gates: Launch['gates']): Launch => ({
    ...launch,
    ...{ kernel: `hopper_${launch.kernel}`, gates, sharedVariable: `hopper_bytes_${type}`, sameShape: false },
    tile: { rows: 128, columns, halves: 1 },
  });
  const columns: Readonly<Record<string, [number, Launch['gates']]>> = {
    ...Object.fromEntries(
      tileLaunches(type)
        .filter(({ kernel }) => /^(negatives|probabilities)_/.test(kernel))
        .map(({ kernel, gates }): [string, [number, Launch['gates']]] => [
          kernel,
          [1024, hopperGates[gates] ?? 'hopper'],
        ]),
    ),
    [`features_product_${type}`]: [128, 'hopperStreamed'],
    [`weights_product_${type}`]: [D, 'hopper'],
  };
  const resident = tileLaunches(type).flatMap((launch) => {
    const [width, limits] = columns[launch.kernel] ?? [];
    return width === undefined || limits === undefined ? [] : [wide(launch, width, limits)];
  });
  // Where the left operand does not stay; of dW with more rows than that.
  const rows = 1024;
  const wider = tileLaunches(type).flatMap((launch) => {
    const name = launch.kernel.replace('_product_', '_product_wide_');
    if (name === launch.kernel) return [];
    const of = wide({ ...launch, kernel: name }, 256, 'hopperWide');
    const more = { size: { ...size, B: rows }, operandBytes: 2 * rows * (size.C + D) };
    return [name.startsWith('weights') ? { ...of, ...more } : of];
  });
  return [...resident, ...wider];
}

function rowLaunches(): Launch[] {
  const { B, D, C } = size;
  const row = (kernel: string, otherBytes: number, updatedBytes = 0): Launch => ({
    ...{ kernel, size, gates: 'row', operandBytes: 0, otherBytes, updatedBytes, sameShape: true },
  });
  // Four products a launch, as a chunk of classes has.
  const addProducts = (size: Size): Launch => ({
    ...row('add_products', B * D * (16 + 4 * products(size)), 8 * B * D),
    size,
  });
  return [
    row('prepare_features', B * (6 * D + 8)),
    row('weight_features', B * (6 * D + 16)),
    row('targets', B * (8 * D + 36)),
    row('reduce_negatives', B * (4 * partials(size) + 12)),
    addProducts({ B, D, C: 4 * C }),
    row('finish_features', B * (20 * D + 44)),
    row('prepare_weights', 6 * C * D),
    row('prepare_weights:sampled', 6 * C * D + 4 * C),
    row('finish_weights:write', 12 * C * D),
    row('finish_weights:accumulate', 16 * C * D, 4 * C * D),
    row('finish_weights:sgd', 22 * C * D, 8 * C * D),
    row('finish_weights_aided:others', 16 * C * D + C, 8 * C * D),
    row('finish_weights:adamw', 30 * C * D, 12 * C * D),
    row('finish_weights_aided:sgd', 22 * C * D, 8 * C * D),
    row('finish_weights_aided:added', 26 * C * D, 8 * C * D),
    row('finish_weights_aided:measure', 8 * C * D),
    row('sum_unit_rows', 4 * C * D + 8 * (C / 32) * D),
    row('add_unit_sums', 8 * (C / 32 + 1) * D),
    row('cosine_sums', B * (4 * D + 16) + 8 * D),
    row('initialize_weights', 4 * C * D),
    row('gather_class_rows', 8 * B * D + 4 * B),
    row('add_class_rows', 12 * B * D + 4 * B, 4 * B * D),
    // Every second class is drawn, of one block of ids; a flag and, of those, a place in the list.
    row('draw_classes', C),
    row('list_classes', 3 * C),
    // Of three rows a class.
    row('targets_sub_centers', B * (16 * D + 44)),
    row('list_sub_centers', 4 * C),
    row('flag_sub_centers', 4 * C * D + (4 * C) / 3),
    row('largest_sub_centers', 8 * B * C),
    row('select_nearest', B * (4 * C + 8 * nearest)),
    // Of classes of four rows; each of the batch's rows, its cosines and labels once, and four terms a triplet.
    row('choose_triplets:hard', B * (4 * B + 4 * D + 60)),
    row('choose_triplets:semihard', B * (4 * B + 4 * D + 108)),
    row('triplet_gradients', B * (8 * D + 72)),
  ];
}

export const launches: readonly Launch[] = [
  ...tileLaunches('float16'),
  ...tileLaunches('bfloat16'),
  ...tileLaunches('float32'),
  ...hopperLaunches('float16'),
  ...hopperLaunches('bfloat16'),
  ...rowLaunches(),
];
