"""ArcFaceLoss of pytorch-metric-learning, whose margin is in degrees and whose weights are [D, C]."""

import math

from serve import serve


class MetricLearning:
    def __init__(self, features, weights, labels, scale, m, job):
        import torch
        import pytorch_metric_learning
        from pytorch_metric_learning import losses, reducers

        torch.set_num_threads(job["threads"])
        self.version = f"pytorch-metric-learning {pytorch_metric_learning.__version__}, PyTorch {torch.__version__}"
        classes, dim = weights.shape
        self.x = torch.from_numpy(features).requires_grad_()
        self.labels = torch.from_numpy(labels).long()
        self.loss = losses.ArcFaceLoss(classes, dim, margin=math.degrees(m), scale=scale)
        self.loss.W.data = torch.from_numpy(weights).t().contiguous()
        self.per_row = reducers.DoNothingReducer()

    def call(self):
        self.x.grad = self.loss.W.grad = None
        self.loss(self.x, self.labels).backward()

    def outcome(self):
        mean, self.loss.reducer = self.loss.reducer, self.per_row
        rows = self.loss(self.x, self.labels)["loss"]["losses"]
        self.loss.reducer = mean
        return rows.detach().numpy(), self.x.grad.numpy(), self.loss.W.grad.t().numpy()


serve(MetricLearning)
