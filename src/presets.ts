/**
 * Options that reproduce what released code computes. Spread one into the options of a call or a head:
 * `valueAndGrad(batch, { ...presets.insightFaceArcFace })`.
 */

import { adaface } from './adaface.js';
import { circleLoss } from './circle_loss.js';
import { curricularface } from './curricularface.js';
import { elasticArcFace, elasticCosFace } from './elasticface.js';
import { magface } from './magface.js';
import { arcface, combined, cosface, x2softmax } from './margins.js';
import { mvSoftmax } from './mv_softmax.js';
import { npcface } from './npcface.js';
import type { LossOptions } from './options.js';
import { randomSoftmax } from './random_softmax.js';
import { sphereface } from './sphereface.js';
import { sphereface2 } from './sphereface2.js';
import { uniface } from './uniface.js';

const degrees = Math.PI / 180;

/**
 * Published recipes by name.
 *
 * - `insightFaceArcFace`: InsightFace's arcface_torch with margins (1, 0.5, 0): the target logit is changed
 *   outside autograd, so `dF/dc` is 1, and angles beyond pi are left alone.
 * - `insightFaceCosFace`: the same with margins (1, 0, 0.4).
 * - `insightFaceSubCenterArcFace`: InsightFace's subcenter_arcface: three rows a class, true derivative. Calls without a head take
 *   weights of three rows for each class.
 * - `x2Softmax`: the X2-Softmax authors' code, which changes the target logit in the same way.
 * - `paddle`: Paddle's `margin_cross_entropy` with its defaults; true derivative.
 * - `metricLearningArcFace`: pytorch-metric-learning's `ArcFaceLoss` with its defaults (28.6 degrees); true
 *   derivative, and `c - m sin(m)` beyond `pi - m`.
 * - `metricLearningCosFace`: pytorch-metric-learning's `CosFaceLoss` with its defaults.
 * - `magFace`: IrvingMeng/MagFace's script, but for its regulariser ({@link magface}).
 * - `adaFace`: mk-minchul/AdaFace's script ({@link adaface} says what differs).
 * - `elasticFaceArc`, `elasticFaceArcPlus`, `elasticFaceCos`, `elasticFaceCosPlus`: fdbtrs/ElasticFace's config.py, `plus` as that code
 *   does it, with other random numbers.
 * - `openSphereFace`: opensphere's `SphereFace`: the margin is a constant to autograd.
 * - `randomSoftmax`: Search-Softmax's released agent in mode `global` with a mean of 0, a draw for each step.
 * - `mvSoftmaxCosFace`, `mvSoftmaxArcFace`: xiaoboCASIA/SV-X-Softmax's MV-AM and MV-Arc.
 * - `curricularFace`: HuangYG123/CurricularFace ({@link curricularface} says what differs).
 * - `npcFace`, `circleLoss`: FaceX-Zoo's.
 * - `sphereFace2`: opensphere's `SphereFace2` of form C ({@link sphereface2} says what differs).
 * - `uniFace`: CVI-SZU/UniFace's ({@link uniface} says what differs).
 */
export const presets = {
  insightFaceArcFace: {
    margin: arcface({ m: 0.5 }),
    scale: 64,
    gradient: 'straightThrough',
    onOverflow: 'none',
  },
  insightFaceCosFace: { margin: cosface({ m: 0.4 }), scale: 64, gradient: 'exact', onOverflow: 'none' },
  insightFaceSubCenterArcFace: {
    margin: arcface({ m: 0.5 }),
    scale: 64,
    gradient: 'exact',
    onOverflow: 'none',
    subCenters: 3,
  },
  x2Softmax: {
    margin: x2softmax({ a: -0.9, h: 0, k: 0.65 }),
    scale: 64,
    gradient: 'straightThrough',
    onOverflow: 'none',
  },
  paddle: {
    margin: combined({ m1: 1, m2: 0.5, m3: 0 }),
    scale: 64,
    gradient: 'exact',
    onOverflow: 'none',
  },
  metricLearningArcFace: {
    margin: arcface({ m: 28.6 * degrees }),
    scale: 64,
    gradient: 'exact',
    onOverflow: 'fallback',
  },
  metricLearningCosFace: { margin: cosface({ m: 0.35 }), scale: 64, gradient: 'exact', onOverflow: 'none' },
  magFace: { margin: magface(), scale: 64, gradient: 'exact', onOverflow: 'easy' },
  adaFace: { margin: adaface(), scale: 64, gradient: 'exact', onOverflow: 'none' },
  elasticFaceArc: { margin: elasticArcFace(), scale: 64, gradient: 'exact', onOverflow: 'none' },
  elasticFaceArcPlus: {
    margin: elasticArcFace({ plus: true, released: true }),
    scale: 64,
    gradient: 'exact',
    onOverflow: 'none',
  },
  elasticFaceCos: { margin: elasticCosFace(), scale: 64, gradient: 'exact', onOverflow: 'none' },
  elasticFaceCosPlus: {
    margin: elasticCosFace({ plus: true, released: true }),
    scale: 64,
    gradient: 'exact',
    onOverflow: 'none',
  },
  openSphereFace: {
    margin: sphereface({ m: 1.5, lambda: 0 }),
    scale: 30,
    gradient: 'straightThrough',
    onOverflow: 'none',
  },
  randomSoftmax: { margin: randomSoftmax(), scale: 32, gradient: 'exact', onOverflow: 'none' },
  mvSoftmaxCosFace: { margin: mvSoftmax(), scale: 32, gradient: 'exact', onOverflow: 'easy' },
  mvSoftmaxArcFace: {
    margin: mvSoftmax({ target: 'arcface' }),
    scale: 32,
    gradient: 'exact',
    onOverflow: 'easy',
  },
  curricularFace: { margin: curricularface(), scale: 64, gradient: 'exact', onOverflow: 'fallback' },
  npcFace: { margin: npcface(), scale: 64, gradient: 'exact', onOverflow: 'easy' },
  circleLoss: { margin: circleLoss(), scale: 256, gradient: 'exact', onOverflow: 'none' },
  sphereFace2: {
    margin: sphereface2({ weight: 50 }),
    scale: 40,
    gradient: 'straightThrough',
    onOverflow: 'none',
  },
  uniFace: { margin: uniface(), scale: 64, gradient: 'exact', onOverflow: 'none' },
} as const satisfies Record<string, LossOptions & { readonly subCenters?: number }>;
