"""CUDA kernels against CPU kernels, run under TRITON_INTERPRET=1 on parameters of a head."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ablate.models.kpn import cuda_kernels, filters

torch.manual_seed(0)
# Several blocks of pixels, of which the last is not full. Whether tanh is applied does not depend on the channels.
for batch, channels, height, width, choices in (
    (2, 3, 8, 18, (True,)),
    (1, 4, 8, 20, (False,)),
    (1, 1, 12, 12, (False,)),
):
    params = 3 * torch.randn(batch, 29, height, width)
    image = torch.randn(batch, channels, height, width)
    for apply_tanh in choices:
        leaves = [image.clone().requires_grad_(), params[:, :25].detach().requires_grad_()]
        expected = filters.filter_pixels(*leaves, apply_tanh=apply_tanh)
        grad = torch.randn_like(expected)
        flat, stride = filters._flat(params[:, :25])
        results = [cuda_kernels.filter_forward(image, flat, stride, apply_tanh)]
        results += cuda_kernels.filter_backward(image, flat, stride, grad, apply_tanh=apply_tanh, with_image=True)
        for a, b in zip(results, [expected, *torch.autograd.grad(expected, leaves, grad)], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        none, alone = cuda_kernels.filter_backward(image, flat, stride, grad, apply_tanh=apply_tanh, with_image=False)
        assert none is None
        assert torch.equal(alone, results[2])
    padded = F.pad(torch.randn(batch, channels, height // 2, width // 2), (2,) * 4, mode="replicate")
    leaves = [padded.clone().requires_grad_(), params[:, 25:28].detach().requires_grad_()]
    expected = filters._Upsample.apply(*leaves)
    grad = torch.randn_like(expected)
    flat, stride = filters._flat(params[:, 25:28])
    results = [
        cuda_kernels.upsample_forward(padded, flat, stride),
        *cuda_kernels.upsample_backward(padded, flat, stride, grad),
    ]
    for a, b in zip(results, [expected, *torch.autograd.grad(expected, leaves, grad)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
