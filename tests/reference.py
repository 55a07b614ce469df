"""The independent truth: docs/conventions.md in dense float64 numpy. No tiles, no recurrences, no native code.

Shapes as everywhere: means [N, 2], log_cholesky [N, 3], colors [N, C], background [C], pictures [H, W, C].
"""

import numpy as np

LIMITS = np.array([[20.0], [1e9], [20.0]])  # of |a|, |b|, |c|


def whitened(means, log_cholesky, height, width):
    """z = L^-1 (p - mean) at every pixel centre, so that q = z0^2 + z1^2: two arrays [N, H, W]."""
    mx, my = np.float64(means).T[:, :, None, None]
    a, b, c = np.clip(np.float64(log_cholesky).T, -LIMITS, LIMITS)[:, :, None, None]
    z0 = (np.arange(width) + 0.5 - mx) / np.exp(a) + np.zeros((height, 1))
    return z0, (np.arange(height)[:, None] + 0.5 - my - b * z0) / np.exp(c)


def exponents(means, log_cholesky, height, width):
    """q / 2: [N, H, W]."""
    z0, z1 = whitened(means, log_cholesky, height, width)
    return (z0**2 + z1**2) / 2


def weights(means, log_cholesky, height, width, cutoff=np.inf):
    """exp(-q / 2), 0 where q / 2 > cutoff: [N, H, W]."""
    half_q = exponents(means, log_cholesky, height, width)
    return np.exp(-half_q) * (half_q <= cutoff)


def render(means, log_cholesky, colors, background, height, width, cutoff=np.inf):
    """background + sum of colour times weight: [H, W, C]."""
    w = weights(means, log_cholesky, height, width, cutoff)
    return np.float64(background) + np.tensordot(w, np.float64(colors), (0, 0))


def render_backward(means, log_cholesky, colors, d_image, cutoff=np.inf):
    """Derivatives of sum(render * d_image), by the chain z -> q -> weight; 0 for a parameter past its limit."""
    height, width, _ = d_image.shape
    z0, z1 = whitened(means, log_cholesky, height, width)
    w = weights(means, log_cholesky, height, width, cutoff)
    d_colors = np.tensordot(w, np.float64(d_image), ((1, 2), (0, 1)))
    d_q = -w / 2 * np.tensordot(np.float64(colors), np.float64(d_image), (1, 2))
    a, b, c = np.clip(np.float64(log_cholesky).T, -LIMITS, LIMITS)[:, :, None, None]
    d_z1 = d_q * 2 * z1
    d_z0 = d_q * 2 * z0 - d_z1 * b / np.exp(c)
    d_means = [-d_z0 / np.exp(a), -d_z1 / np.exp(c)]
    d_log_cholesky = [-d_z0 * z0, -d_z1 * z0 / np.exp(c), -d_z1 * z1]
    d_means, d_log_cholesky = (np.sum(d, axis=(2, 3)) for d in (d_means, d_log_cholesky))
    return d_means.T, (d_log_cholesky * (abs(np.float64(log_cholesky).T) <= LIMITS)).T, d_colors


def window(size):
    """One axis of the SSIM window as a matrix: 11 Gaussian taps of sigma 1.5, cut at the border, each row of sum 1."""
    away = np.subtract.outer(np.arange(size), np.arange(size))
    taps = np.exp(-(away**2) / (2 * 1.5**2)) * (abs(away) <= 5)
    return taps / taps.sum(axis=1, keepdims=True)


def ssim_map(image, target):
    """SSIM (Wang et al. 2004, values in [0, 1]) at every pixel and channel: [H, W, C]."""
    height, width, _ = target.shape
    x, t = np.float64(image), np.float64(target)
    blur = lambda p: np.einsum("ij,jkc,lk->ilc", window(height), p, window(width), optimize=True)  # noqa: E731
    mx, mt = blur(x), blur(t)
    var_x, var_t, cov = blur(x * x) - mx**2, blur(t * t) - mt**2, blur(x * t) - mx * mt
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mx * mt + c1) * (2 * cov + c2) / ((mx**2 + mt**2 + c1) * (var_x + var_t + c2))


def ssim(image, target):
    """The metric: the mean over the pixels whose window lies inside, or over all pixels of a picture below 11."""
    values = ssim_map(image, target)
    return float(np.mean(values if min(values.shape[:2]) < 11 else values[5:-5, 5:-5]))


def loss(image, target, l2=1.0, l1=0.0, ssim=0.0, outside=1.0):
    """l2 * MSE + l1 * MAE + ssim * (1 - mean SSIM over every pixel), with this weight beyond a target of 0 or 1."""
    difference = np.float64(image) - np.float64(target)
    hidden = (difference > 0) & (target >= 1) | (difference < 0) & (target <= 0)
    weight = np.where(hidden, outside, 1)
    seen = np.mean(ssim_map(target + weight * difference, target))
    return l2 * np.mean(weight * difference**2) + l1 * np.mean(weight * abs(difference)) + ssim * (1 - seen)


def adam(value, gradient, m, v, step, rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """One step of Adam (Kingma and Ba 2015); step counts from 1. Returns value, m, v."""
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient**2
    return value - rate * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + epsilon), m, v
