// Numbers in words as units.py writes them, and the rules of comparison.py and verdict.py; thresholds and words come with the data.
const units = (() => {
  const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const formats = new Map();
  const fixed = (value, digits) => {
    if (!formats.has(digits)) {
      const options = { minimumFractionDigits: digits, maximumFractionDigits: digits, roundingMode: "halfEven" };
      formats.set(digits, new Intl.NumberFormat("en-US", options));
    }
    return formats.get(digits).format(value);
  };
  const whole = (value) => fixed(value, 0);

  function significant(value, digits = 3) {
    if (value === 0) return "0";
    const before = Math.abs(value) >= 1 ? String(Math.trunc(Math.abs(value))).length : 0;
    return before ? fixed(value, Math.max(digits - before, 0)) : String(Number(value.toPrecision(digits)));
  }

  function bytes(count) {
    let size = Math.abs(count), power = 0;
    for (; Math.round(size) >= 1024 && power < BINARY.length - 1; power += 1) size /= 1024;
    const text = power === 0 || size >= 99.95 || Number.isInteger(size) ? whole(size) : significant(size);
    return `${count < 0 ? "-" : ""}${text} ${BINARY[power]}`;
  }

  function mebibytes(count) {
    const size = count / 2 ** 20;
    return Math.abs(size) >= 100 ? whole(size) : Math.abs(size) >= 1 || size === 0 ? fixed(size, 1) : significant(size, 2);
  }

  const crosses = (percent, rounded) =>
    [1, 5].some((edge) => percent < edge - 1e-9 && rounded >= edge) || (percent > 2 + 1e-9 && rounded <= 2);

  function percent(fraction) {
    const amount = Math.abs(fraction) * 100;
    let digits = amount >= 9.95 ? 0 : amount >= 0.95 ? 1 : amount >= 0.005 || amount === 0 ? 2 : 4;
    const plain = () => fixed(amount, digits).replaceAll(",", "");
    while (digits < 8 && crosses(amount, Number(plain()))) digits += 1;
    const text = plain().includes(".") ? plain().replace(/0+$/, "").replace(/\.$/, "") : plain();
    return `${fraction < 0 && text !== "0" ? "-" : ""}${text}%`;
  }

  function seconds(time) {
    if (time >= 120) return `${Math.floor(Math.round(time) / 60)} min ${String(Math.round(time) % 60).padStart(2, "0")} s`;
    if (time >= 0.9995) return `${significant(time)} s`;
    return time * 1e3 >= 0.9995 ? `${significant(time * 1e3)} ms` : `${significant(time * 1e6)} µs`;
  }

  return { bytes, mebibytes, percent, seconds, whole };
})();

// Candidates are {label, method, order, rank, stem, peak, seconds, launch, step_flops, …}; `memory` is what the device has, or null.
const verdicts = (rules, memory) => {
  const near = (one, other, tolerance) =>
    one !== null && other !== null && Math.abs(one - other) <= tolerance * Math.max(one, other);
  const tooBig = (one) => memory !== null && one.peak > memory;

  function outcome(difference, time, noise) {
    const slower = time !== null && time > Math.max(rules.slower, noise);
    const alike = Math.abs(difference) < rules.small - 1e-12;
    if (slower || (difference > 0 && !alike)) return "costs";
    return alike ? "same" : difference <= -rules.pays + 1e-12 ? "pays" : "small";
  }

  function compare(subject, against) {
    const time = subject.seconds !== null && against.seconds ? subject.seconds / against.seconds - 1 : null;
    const share = Math.max(...[subject, against].map((one) => (one.launch ?? 0) / (one.seconds || 1)));
    const noise = share > 1 / 3 ? rules.launches : rules.roofline;
    const [ours, theirs] = [tooBig(subject), tooBig(against)];
    const fits = ours && theirs ? "neither" : theirs ? "subject" : ours ? "against" : "";
    const memoryDifference = subject.peak / against.peak - 1;
    const result = { subject: "pays", against: "costs", neither: "unknown" }[fits] ?? outcome(memoryDifference, time, noise);
    const shorter = result === "same" && time !== null && time < -Math.max(rules.slower, noise);
    return { subject, against, fits, memory: memoryDifference, time, noise, outcome: result, conclusion: shorter ? "shorter" : result };
  }

  // Of the others the one with the least peak that runs, ties by the FLOPs of a step; the first where none runs.
  function bestOf(others) {
    const running = others.filter((one) => !tooBig(one));
    const less = (one, best) => one.peak < best.peak || (one.peak === best.peak && one.step_flops < best.step_flops);
    return running.reduce((best, one) => (less(one, best) ? one : best), running[0] ?? others[0]);
  }

  // In what the subject is equal to a reference: rank, parameters, step cost.
  function equalities(subject, other, names) {
    const own = [subject.own_step_flops, other.own_step_flops];
    const steps = own.includes(null) ? [subject.step_flops, other.step_flops, rules.equalStep] : [...own, rules.equal];
    const holds = [
      near(subject.rank, other.rank, rules.equal),
      near(subject.adapter_parameters, other.adapter_parameters, rules.equal),
      near(...steps),
    ];
    return names.filter((_, index) => holds[index]);
  }

  return { compare, bestOf, equalities, tooBig };
};
