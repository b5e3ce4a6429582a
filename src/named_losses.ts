/** Losses by name, for command lines and files of settings. */

import { adacos } from './adacos.js';
import { adaface } from './adaface.js';
import { adaptiveFace } from './adaptiveface.js';
import { centerLoss } from './center_loss.js';
import { circleLoss } from './circle_loss.js';
import { curricularface } from './curricularface.js';
import { dynArcFace } from './dynarcface.js';
import { elasticArcFace, elasticCosFace } from './elasticface.js';
import { interLoss } from './inter_loss.js';
import { intraLoss } from './intra_loss.js';
import { magface } from './magface.js';
import { arcface, combined, cosface, type Margin, softmax, x2softmax } from './margins.js';
import { mvSoftmax } from './mv_softmax.js';
import { npcface } from './npcface.js';
import type { LossOptions } from './options.js';
import { presets } from './presets.js';
import { randomSoftmax } from './random_softmax.js';
import { ringLoss } from './ring_loss.js';
import { amLfs, focal, type RowFunction, searchSoftmax } from './row_functions.js';
import { sphereface } from './sphereface.js';
import { sphereface2 } from './sphereface2.js';
import type { LossTerm } from './terms.js';
import { tripletLoss } from './triplet_loss.js';
import { uniface } from './uniface.js';
import { mustBe, show } from './validate.js';

/** A loss that can be asked for by name. */
export interface NamedLoss {
  readonly name: string;
  /** As its paper writes it; of presets their name. */
  readonly title: string;
  /** To be spread into the options of a call or a head. */
  readonly options: LossOptions & { readonly subCenters?: number };
}

/** Every margin that is plain data, by the name of its function: what that returns without parameters, where it has defaults for all. */
const margins: {
  readonly [K in Exclude<Margin['kind'], 'custom'>]: {
    readonly title: string;
    readonly margin: Extract<Margin, { kind: K }>;
  };
} = {
  softmax: { title: 'Softmax', margin: softmax() },
  cosface: { title: 'CosFace', margin: cosface() },
  arcface: { title: 'ArcFace', margin: arcface() },
  x2softmax: { title: 'X2-Softmax', margin: x2softmax() },
  combined: { title: 'Combined margin', margin: combined() },
  magface: { title: 'MagFace', margin: magface() },
  adaface: { title: 'AdaFace', margin: adaface() },
  adaptiveFace: { title: 'AdaptiveFace', margin: adaptiveFace() },
  // Its source names no values.
  dynArcFace: { title: 'Dyn-ArcFace', margin: dynArcFace({ k1: 0.5, k2: 0.3, k3: 0.4 }) },
  elasticArcFace: { title: 'ElasticFace-Arc', margin: elasticArcFace() },
  elasticCosFace: { title: 'ElasticFace-Cos', margin: elasticCosFace() },
  sphereface: { title: 'SphereFace', margin: sphereface() },
  randomSoftmax: { title: 'Random-Softmax', margin: randomSoftmax() },
  mvSoftmax: { title: 'MV-Softmax', margin: mvSoftmax() },
  curricularface: { title: 'CurricularFace', margin: curricularface() },
  npcface: { title: 'NPCFace', margin: npcface() },
  circleLoss: { title: 'Circle loss', margin: circleLoss() },
  sphereface2: { title: 'SphereFace2', margin: sphereface2() },
  uniface: { title: 'UniFace', margin: uniface() },
};

/** Every function of the probability, with softmax; of searched ones the papers name no values. */
const rowFunctions: {
  readonly [K in RowFunction['kind']]: {
    readonly title: string;
    readonly rowFunction: Extract<RowFunction, { kind: K }>;
  };
} = {
  focal: { title: 'Focal loss', rowFunction: focal() },
  searchSoftmax: { title: 'Search-Softmax', rowFunction: searchSoftmax({ a: -1, exponent: 1 / 3 }) },
  amLfs: { title: 'AM-LFS', rowFunction: amLfs({ a: [0.5, 1.5], b: [0, -0.5] }) },
};

/** Every companion term, with softmax. */
const terms: {
  readonly [K in LossTerm['kind']]: {
    readonly name: string;
    readonly title: string;
    readonly term: Extract<LossTerm, { kind: K }>;
  };
} = {
  intra: { name: 'intraLoss', title: 'Intra-loss', term: intraLoss() },
  inter: { name: 'interLoss', title: 'Inter-loss', term: interLoss() },
  ring: { name: 'ringLoss', title: 'Ring loss', term: ringLoss() },
  center: { name: 'centerLoss', title: 'Centre loss', term: centerLoss() },
  triplet: { name: 'tripletLoss', title: 'Triplet loss', term: tripletLoss() },
};

/** All losses that have a name: the functions that make margins, row functions, terms and scales, `subCenters`, and then {@link presets}. */
export const namedLosses: readonly NamedLoss[] = [
  ...Object.entries(margins).map(([name, { title, margin }]) => ({ name, title, options: { margin } })),
  ...Object.entries(rowFunctions).map(([name, { title, rowFunction }]) => ({
    ...{ name, title },
    options: { margin: softmax(), rowFunction },
  })),
  ...Object.values(terms).map(({ name, title, term }) => ({
    ...{ name, title },
    options: { margin: softmax(), terms: [term] },
  })),
  { name: 'adacos', title: 'AdaCos', options: { margin: softmax(), scale: adacos() } },
  { name: 'subCenters', title: 'Sub-center ArcFace', options: { margin: arcface(), subCenters: 3 } },
  ...Object.entries(presets)
    .filter(([name]) => !Object.hasOwn(margins, name))
    .map(([name, options]) => ({ name, title: name, options })),
];

/**
 * The loss of a name.
 *
 * @throws MarginFcError ERR_OPTION, with all names, for another one.
 * @example
 * ```ts
 * import { lossNamed, MarginHead } from 'marginfc';
 *
 * const { title, options } = lossNamed(process.argv[2] ?? 'arcface');
 * const head = await MarginHead.create({ dim: 128, classes: 1000, ...options });
 * console.log(title, head.margin);
 * ```
 */
export function lossNamed(name: string): NamedLoss {
  const found = namedLosses.find((loss) => loss.name === name);
  if (found) return found;
  const names = namedLosses.map((loss) => loss.name).join(', ');
  throw mustBe('ERR_OPTION', 'the name of a loss', `one of ${names}`, show(name));
}
