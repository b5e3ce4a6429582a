"""ArcFace in PyTorch with the operations of InsightFace's code: normalise, linear, the margin on the target outside autograd
(so its derivative counts as 1), cross entropy. Only targets go through arccos and cos, which is the cheapest way to say it."""

from serve import memory_field, serve


class PyTorch:
    def __init__(self, features, weights, labels, scale, m, job):
        import torch

        self.torch = torch
        torch.set_num_threads(job["threads"])
        self.version = f"PyTorch {torch.__version__}"
        self.x = torch.from_numpy(features).requires_grad_()
        self.w = torch.from_numpy(weights).requires_grad_()
        self.labels = torch.from_numpy(labels).long()
        self.rows = torch.arange(len(labels))
        self.scale, self.m = scale, m
        self.autocast = job["precision"] == "bfloat16"
        self.losses = torch.compile(self.row_losses) if job["compile"] else self.row_losses
        self.last = None
        if job["compile"]:
            self.compile(torch)

    def compile(self, torch):
        # A small one first, so that the compiler itself counts as there before.
        problem = self.x, self.w, self.labels, self.rows
        self.x, self.w = (torch.rand(8, 16, requires_grad=True) for _ in range(2))
        self.labels = self.rows = torch.arange(8)
        self.call()
        self.x, self.w, self.labels, self.rows = problem
        torch.compiler.reset()
        self.losses = torch.compile(self.row_losses)
        self.resident = memory_field("VmRSS")
        self.call()

    def row_losses(self, x, w):
        torch, functional = self.torch, self.torch.nn.functional
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            cosines = functional.linear(functional.normalize(x), functional.normalize(w))
        cosines = cosines.float().clamp(-1, 1)
        with torch.no_grad():
            own = cosines[self.rows, self.labels]
            cosines[self.rows, self.labels] = torch.cos(torch.arccos(own) + self.m)
        return functional.cross_entropy(cosines * self.scale, self.labels, reduction="none")

    def call(self):
        self.x.grad = self.w.grad = None
        self.last = self.losses(self.x, self.w)
        self.last.mean().backward()

    def outcome(self):
        return self.last.detach().numpy(), self.x.grad.numpy(), self.w.grad.numpy()


serve(PyTorch)
