/**
 * marginfc: the classification head of face recognition and other open-set embeddings, with an angular margin,
 * as one native operation. Functions of features and weights: {@link valueAndGrad} and {@link forward}. Weights
 * that are kept and trained: {@link MarginHead}.
 *
 * @packageDocumentation
 */

export { type AdaCosScale, adacos } from './adacos.js';
export { type AdaFaceMargin, adaface } from './adaface.js';
export { type AdaptiveFaceMargin, adaptiveFace, type MarginGradient } from './adaptiveface.js';
export type { AngleHistograms } from './angles.js';
export type { BatchMargin } from './batch_margins.js';
export { type CenterLoss, centerLoss } from './center_loss.js';
export { type CircleLossMargin, circleLoss } from './circle_loss.js';
export type { AddClassesOptions, RemoveClassesOptions } from './class_changes.js';
export type { ClassRange } from './class_ranges.js';
export type { GradientClip } from './clipping.js';
export { type CurricularFaceMargin, curricularface } from './curricularface.js';
export type { DeviceArray } from './device_array.js';
export {
  countSubCenters,
  dominantSubCenters,
  type LabelledRows,
  type SubCenters,
} from './dominant_sub_centers.js';
export { type DynArcFaceMargin, dynArcFace } from './dynarcface.js';
export {
  type DrawnMargin,
  type ElasticArcFaceMargin,
  type ElasticCosFaceMargin,
  elasticArcFace,
  elasticCosFace,
} from './elasticface.js';
export { type EngineStatus, listEngines } from './engines.js';
export { MarginFcError, type MarginFcErrorCode } from './errors.js';
export type { RowResults, SkippedMass } from './evaluation.js';
export type { BackwardOptions, ForwardPass, LossResult } from './forward_pass.js';
export type {
  GradientArrays,
  GradientChoice,
  GradientOutputs,
  HostOutputs,
  OutputArray,
} from './gradients.js';
export { type GroupArray, type MpiOptions, mpi, type ProcessGroup } from './group.js';
export { MarginHead } from './head.js';
export type {
  AccumulateOptions,
  ApplyOptions,
  EvaluateOptions,
  HeadBatch,
  NearestOptions,
  SaveOptions,
  StepOptions,
} from './head_calls.js';
export type { HeadBackwardOptions, HeadForwardPass } from './head_forward_pass.js';
export type { LoadOptions } from './head_load.js';
export type {
  FeatureGradientScale,
  MarginHeadOptions,
  NormalInit,
  WeightSource,
  WeightStorage,
} from './head_options.js';
export type { HeadSnapshot, SnapshotOptions } from './head_snapshot.js';
export type { FeatureGradientOutput, HeadResult, SampledClasses, StepResult } from './head_state.js';
export { type InterLoss, interLoss } from './inter_loss.js';
export { type IntraLoss, intraLoss } from './intra_loss.js';
export { l2SoftmaxScale } from './l2softmax.js';
export type { BiasGradient } from './learned_bias.js';
export {
  type Batch,
  type ForwardOptions,
  forward,
  forwardSync,
  type ReductionOptions,
  type ValueAndGrad,
  type ValueAndGradOptions,
  valueAndGrad,
  valueAndGradSync,
} from './loss.js';
export type { NormStatistics } from './loss_memory.js';
export { type LossSearchOptions, type LossSearchResult, lossSearch } from './loss_search.js';
export { type MagFaceMargin, magface } from './magface.js';
export {
  type ArcFaceMargin,
  arcface,
  type BuiltInMargin,
  type CombinedMargin,
  type CosFaceMargin,
  type CustomMargin,
  type CustomMarginCallback,
  type CustomMarginRow,
  type CustomMarginTarget,
  combined,
  cosface,
  customMargin,
  type Margin,
  type MarginParameter,
  type SoftmaxMargin,
  softmax,
  type X2SoftmaxMargin,
  x2softmax,
} from './margins.js';
export { releaseMemory } from './memory.js';
export { type MvSoftmaxMargin, mvSoftmax } from './mv_softmax.js';
export { lossNamed, type NamedLoss, namedLosses } from './named_losses.js';
export { type NcclOptions, nccl } from './nccl.js';
export type { Nearest } from './nearest.js';
export { type NpcFaceMargin, npcface } from './npcface.js';
export { type AdamWOptimizer, adamw, type Optimizer, type SgdOptimizer, sgd } from './optimizers.js';
export type {
  ComputeOptions,
  DeviceName,
  EngineChoice,
  EngineName,
  GradientMode,
  LossOptions,
  OverflowPolicy,
  Precision,
  Reduction,
  Workspace,
} from './options.js';
export { presets } from './presets.js';
export { type RandomSoftmaxMargin, randomSoftmax } from './random_softmax.js';
export { type RingLoss, ringLoss } from './ring_loss.js';
export {
  type AmLfsFunction,
  amLfs,
  type FocalFunction,
  focal,
  type RowFunction,
  type SearchSoftmaxFunction,
  searchSoftmax,
} from './row_functions.js';
export type { Float16ArrayLike, HalfArray, Rows } from './rows.js';
export type { SampledUpdate, SamplingOptions } from './sampling.js';
export {
  type CosineSchedule,
  cosine,
  type LinearSchedule,
  linear,
  type PiecewiseSchedule,
  piecewise,
  type Ramp,
  type Schedule,
  valueAt,
} from './schedule.js';
export type {
  LossCandidate,
  LossSearchIteration,
  LossSearchSettings,
  LossSearchState,
  LossSearchTrial,
} from './search_state.js';
export { type SphereFaceMargin, sphereface } from './sphereface.js';
export { type SphereFace2Margin, sphereface2 } from './sphereface2.js';
export type { WeightedTerm } from './term_rules.js';
export type { RingRadius } from './term_state.js';
export type { LossTerm, TermValues } from './terms.js';
export { type TripletLoss, type TripletMining, tripletLoss } from './triplet_loss.js';
export { type UniFaceMargin, uniface } from './uniface.js';
export { type WeightFile, type WeightFileOptions, weightsFrom } from './weight_file.js';
