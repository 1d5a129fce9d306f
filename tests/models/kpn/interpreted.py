"""The kernels against the loops, under TRITON_INTERPRET=1; numbers as a head gives them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ablate.models.kpn import cuda_kernels, filters

torch.manual_seed(0)
for channels, height, width in ((3, 16, 20), (4, 8, 40), (1, 32, 32)):
    numbers = 3 * torch.randn(2, 29, height, width)
    image = torch.randn(2, channels, height, width)
    for squash in (True, False):
        leaves = [image.clone().requires_grad_(), numbers[:, :25].detach().requires_grad_()]
        expected = filters.filter_pixels(*leaves, squash=squash)
        grad = torch.randn_like(expected)
        flat, step = filters._rows(numbers[:, :25])
        found = [cuda_kernels.filter_forward(image, flat, step, squash)]
        found += cuda_kernels.filter_backward(image, flat, step, grad, squash=squash, with_image=True)
        for a, b in zip(found, [expected, *torch.autograd.grad(expected, leaves, grad)], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        none, alone = cuda_kernels.filter_backward(image, flat, step, grad, squash=squash, with_image=False)
        assert none is None
        assert torch.equal(alone, found[2])
    padded = F.pad(torch.randn(2, channels, height // 2, width // 2), (2,) * 4, mode="replicate")
    leaves = [padded.clone().requires_grad_(), numbers[:, 25:28].detach().requires_grad_()]
    expected = filters._Upsample.apply(*leaves)
    grad = torch.randn_like(expected)
    flat, step = filters._rows(numbers[:, 25:28])
    found = [
        cuda_kernels.upsample_forward(padded, flat, step),
        *cuda_kernels.upsample_backward(padded, flat, step, grad),
    ]
    for a, b in zip(found, [expected, *torch.autograd.grad(expected, leaves, grad)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
