/** The embedding network: images in, features out. The class weights are the head's, not the network's. */

import { initializers, layers, type Sequential, sequential } from '@tensorflow/tfjs-layers';

/** inputs -> hidden ... -> dim, relu between. Convolutions would learn more, but tfjs's wasm backend cannot train them. */
export function createNetwork(
  inputs: number,
  hidden: readonly number[],
  dim: number,
  seed: number,
): Sequential {
  const network = sequential();
  let inputShape: { inputShape?: number[] } = { inputShape: [inputs] };
  for (const [index, units] of hidden.entries()) {
    const kernelInitializer = initializers.heNormal({ seed: seed * 10 + index });
    network.add(layers.dense({ units, activation: 'relu', kernelInitializer, ...inputShape }));
    inputShape = {};
  }
  const kernelInitializer = initializers.glorotNormal({ seed: seed * 10 + hidden.length });
  network.add(layers.dense({ units: dim, useBias: false, kernelInitializer, ...inputShape }));
  return network;
}
