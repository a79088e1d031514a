// Intervals of shares and thresholds, as `metrics.intervals` and `metrics.threshold` compute them.

const LEVEL = 0.95;
const NORMAL_QUANTILE = 1.959963984540054;

function logGamma(x) {
  if (x < 12) { // recurrence, so that Stirling's series is exact to 1e-14
    let product = 1;
    for (; x < 12; x += 1) product *= x;
    return logGamma(x) - Math.log(product);
  }
  const z = 1 / (x * x);
  const series = (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z * (1 / 1680 - z / 1188)))) / x;
  return (x - 0.5) * Math.log(x) - x + 0.9189385332046727 + series;
}

// The regularized incomplete beta function, by its continued fraction (Lentz).
function betaShare(a, b, x) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - betaShare(b, a, 1 - x);
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x)) / a;
  const away = (value) => (Math.abs(value) < 1e-300 ? 1e-300 : value);
  let [c, d] = [1, 1 / away(1 - ((a + b) * x) / (a + 1))];
  let sum = d;
  for (let m = 1; m < 2000; m += 1) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / away(1 + even * d);
    c = away(1 + even / c);
    sum *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / away(1 + odd * d);
    c = away(1 + odd / c);
    const step = d * c;
    sum *= step;
    if (Math.abs(step - 1) < 1e-14) break;
  }
  return front * sum;
}

function betaQuantile(a, b, share) {
  let [low, high] = [0, 1];
  for (let at = 0; at < 60; at += 1) {
    const middle = (low + high) / 2;
    if (betaShare(a, b, middle) < share) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

function studentQuantile(degrees) {
  const x = betaQuantile(degrees / 2, 0.5, 1 - LEVEL);
  return Math.sqrt(degrees * (1 / x - 1));
}

function clopperPearson(hits, n) {
  const tail = (1 - LEVEL) / 2;
  return [hits > 0 ? betaQuantile(hits, n - hits + 1, tail) : 0, hits < n ? betaQuantile(hits + 1, n - hits, 1 - tail) : 1];
}

// The share of images that are hit, with its interval over groups. groups: null if each image is a group of its own.
function shareOf(hits, groups) {
  const n = hits.length;
  const count = hits.filter(Boolean).length;
  if (!n) return { value: null, n, count };
  const share = count / n;
  const byGroup = new Map();
  hits.forEach((hit, at) => {
    const found = byGroup.get(groups ? groups[at] : at) ?? [0, 0];
    byGroup.set(groups ? groups[at] : at, [found[0] + 1, found[1] + (hit ? 1 : 0)]);
  });
  const number = byGroup.size;
  let effective = n;
  if (number < n) {
    effective = number;
    if (count > 0 && count < n && number > 1) {
      let squares = 0;
      for (const [size, sum] of byGroup.values()) squares += (sum - share * size) ** 2;
      const variance = ((number / (number - 1)) * squares) / n ** 2;
      const student = (NORMAL_QUANTILE / studentQuantile(number - 1)) ** 2;
      effective = Math.min(Math.max((student * share * (1 - share)) / Math.max(variance, 1e-12), 1), n);
    }
  }
  const [low, high] = clopperPearson(share * effective, effective);
  return { value: share, low, high, n, count };
}

// The conformal threshold of held-back scores, and the false-alarm rate that it promises; null without scores.
function conformal(scores, groups, budget) {
  const n = scores.length;
  if (!n) return null;
  const sizes = new Map();
  if (groups) for (const group of groups) sizes.set(group, (sizes.get(group) ?? 0) + 1);
  const weights = Array.from(scores, (_, at) => (groups ? 1 / sizes.get(groups[at]) : 1));
  const count = groups ? sizes.size : n;
  const order = [...weights.keys()].sort((a, b) => scores[a] - scores[b] || weights[a] - weights[b]);
  let below = 0;
  for (const [rank, at] of order.entries()) {
    below += weights[at];
    if (below < (count + 1) * (1 - budget) - 1e-9 && rank < n - 1) continue;
    const promised = (count + 1 - below) / (count + 1);
    if (count < n) return { limit: scores[at], value: Math.min(...weights) < Math.max(...weights) ? Math.max(promised, budget) : promised };
    const tail = (1 - LEVEL) / 2;
    const interval = (share) => betaQuantile(n - rank, rank + 1, share); // of the rate that it really has
    return { limit: scores[at], value: promised, low: interval(tail), high: interval(1 - tail), n };
  }
  return null;
}
