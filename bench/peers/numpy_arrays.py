"""ArcFace and its gradients written out in numpy, float32 throughout."""

from serve import serve


class Numpy:
    def __init__(self, features, weights, labels, scale, m, job):
        import numpy

        self.numpy = numpy
        self.version = f"numpy {numpy.__version__}"
        self.x, self.w, self.labels = features, weights, labels
        self.scale, self.m = numpy.float32(scale), numpy.float32(m)
        self.last = None

    def unit(self, rows):
        norms = self.numpy.linalg.norm(rows, axis=1, keepdims=True)
        return rows / norms, norms

    def call(self):
        numpy, scale = self.numpy, self.scale
        rows = numpy.arange(len(self.labels))
        xh, x_norms = self.unit(self.x)
        wh, w_norms = self.unit(self.w)
        logits = xh @ wh.T
        theta = numpy.arccos(numpy.clip(logits[rows, self.labels], -1, 1))
        logits[rows, self.labels] = numpy.cos(theta + self.m)
        logits *= scale
        target = logits[rows, self.labels].copy()
        largest = logits.max(axis=1, keepdims=True)
        logits -= largest
        numpy.exp(logits, out=logits)
        sums = logits.sum(axis=1, keepdims=True)
        losses = numpy.log(sums[:, 0]) + largest[:, 0] - target
        logits /= sums
        logits[rows, self.labels] -= 1
        logits[rows, self.labels] *= numpy.sin(theta + self.m) / numpy.sin(theta)
        logits *= scale / numpy.float32(len(rows))
        dx = logits @ wh
        dx = (dx - (dx * xh).sum(axis=1, keepdims=True) * xh) / x_norms
        dw = logits.T @ xh
        dw = (dw - (dw * wh).sum(axis=1, keepdims=True) * wh) / w_norms
        self.last = losses, dx, dw

    def outcome(self):
        return self.last


serve(Numpy)
