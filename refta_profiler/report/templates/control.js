// "Does it pay off at my batch?": the chosen settings, every variant's step replayed at them, the answer in words and as a table.
(async () => {
  const source = document.getElementById("control-data"), form = document.getElementById("control");
  if (!source || !form || !("DecompressionStream" in window)) return;
  const data = JSON.parse(source.textContent);
  const packed = Uint8Array.from(atob(data.steps), (sign) => sign.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const steps = await new Response(stream).json();
  const variants = data.variants.map((named, index) => ({ ...named, ...steps[index], adapter_parameters: named.adapter_parameters ?? null }));
  const rule = verdicts(data.rules, data.memory_bytes);
  const known = new Map(); // what was replayed, by variant and batch
  const answer = document.getElementById("control-answer"), table = document.getElementById("control-table");

  const SETTINGS = 4; // how many of the choices are the setting, under which all are compared
  const CHOICES = [ // the settings first, then the function among what there is under them
    ["seq", "sequence", (one) => one.seq],
    ["precision", "precision", (one) => one.precision],
    ["checkpointing", "checkpointing", (one) => (one.checkpointing ? "on" : "off")],
    ["parallel", "ranks", (one) => one.parallel || "none"],
    ["method", "method", (one) => one.method],
    ["rank", "rank", (one) => one.rank ?? "none"],
    ["stem", "settings", (one) => one.stem],
  ];
  const chosen = {};

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // A name, with leave to break a line after a slash or an underscore.
  const code = (text) => make("code", {}, ...text.split(/(?<=[/_])/).flatMap((part, index) => (index ? [make("wbr", {}), part] : [part])));
  const strong = (text) => make("strong", {}, text);

  // The variants that are left after the choices before `upto`, each choice made valid on the way.
  function left(upto) {
    let found = variants;
    for (const [name, , read] of CHOICES.slice(0, upto)) found = found.filter((one) => String(read(one)) === chosen[name]);
    return found;
  }

  function settle() {
    CHOICES.forEach(([name, , read], index) => {
      const there = left(index), values = [...new Set(there.map((one) => String(read(one))))];
      const first = name === "method" ? String(read(there.find((one) => one.order) ?? there[0])) : values[0];
      if (!values.includes(chosen[name])) chosen[name] = first;
      const select = form.elements[name];
      select.replaceChildren(...values.map((value) => make("option", { value }, value)));
      select.value = chosen[name];
      select.closest("label").hidden = values.length < 2;
    });
  }

  function at(variant, batch) {
    const key = `${variants.indexOf(variant)} ${batch}`;
    if (!known.has(key)) {
      const found = replay(variant, batch), own = variant.own_step_flops;
      const fits = data.memory_bytes === null || (found.reserved ?? found.allocated) <= data.memory_bytes;
      const time = fits ? found.time : null;
      const line = own && variant.seq !== null ? own[0] + own[1] * variant.seq * batch : null;
      known.set(key, { ...variant, ...found, own_step_flops: line, seconds: time?.seconds ?? null, launch: time?.launch ?? null });
    }
    return known.get(key);
  }

  function ask() {
    const batch = Number(form.elements.batch.value);
    const bad = !Number.isInteger(batch) || batch < 1 || batch > data.last;
    form.elements.batch.setAttribute("aria-invalid", String(bad));
    if (bad) {
      answer.replaceChildren(make("p", {}, `Give a whole number of examples from 1 to ${units.whole(data.last)}.`));
      table.hidden = true;
      return;
    }
    const setting = left(SETTINGS), candidates = setting.filter((one) => !one.reason).map((one) => at(one, batch));
    const reserved = candidates.every((one) => one.reserved !== null);
    const rows = candidates.map((one) => ({ ...one, peak: reserved ? one.reserved : one.allocated }));
    const members = rows.filter((one) => one.method === chosen.method && String(one.rank ?? "none") === chosen.rank && one.stem === chosen.stem);
    show(batch, rows, members, setting.filter((one) => one.reason), reserved ? "peak_reserved_bytes" : "peak_allocated_bytes");
  }

  function show(batch, rows, members, missing, quantity) {
    if (!members.length) {
      answer.replaceChildren(make("p", {}, "This method's step cannot be replayed here: ", missing[0]?.reason ?? "it is not known", "."));
    } else {
      answer.replaceChildren(winnerWords(batch, members, quantity), ...verdictWords(rows, members));
    }
    fill(rows, members, missing, quantity);
    const command = document.getElementById("control-command");
    command.hidden = !members.length || members[0].settings === null; // `check` cannot be asked about code of one's own
    if (!command.hidden) command.replaceChildren(...commandWords(batch, members[0]));
  }

  function winnerWords(batch, members, quantity) {
    const [best, other] = [...members].sort((one, two) => one.peak - two.peak || one.step_flops - two.step_flops);
    const size = `${units.bytes(best.peak)} (predicted, ${data.quantities[quantity]}).`;
    const line = make("p", { class: "winner" }, `At batch ${units.whole(batch)} `, strong(code(best.label)), other ? ` has the least peak: ${size}` : ` needs ${size}`);
    if (!other) return line;
    const margin = other.peak - best.peak;
    const more = margin ? `${units.bytes(margin)} more, ${units.percent(margin / other.peak)} of the whole step's peak` : "the same";
    line.append(" The best other order, ", code(other.label), `, needs ${more}.`);
    Object.assign(line.dataset, { winner: best.label, runnerUp: other.label, marginBytes: margin, marginFraction: other.peak ? margin / other.peak : "" });
    return line;
  }

  function verdictWords(rows, members) {
    const [subject, ...others] = members;
    const found = others.length ? [[rule.compare(subject, rule.bestOf(others)), "its best other order"]] : [];
    const judged = !data.references.includes(subject.method) && !data.bounds.includes(subject.method);
    for (const other of judged ? rows.filter((one) => data.references.includes(one.method)) : []) {
      const equal = rule.equalities(subject, other, data.comparisons);
      if (equal.length) found.push([rule.compare(subject, other), equal.join(" and ")]);
    }
    return found.map(([one, comparison]) => sentence(one, comparison));
  }

  function sentence(one, comparison) {
    const line = make("p", { "data-subject": one.subject.label, "data-against": one.against.label, "data-outcome": one.outcome });
    line.append(code(one.subject.label), " against ", code(one.against.label), ` (${comparison}): `);
    line.append(`${memoryWords(one)}${timeWords(one)}: `, make("span", { class: `badge ${one.outcome}` }, data.conclusions[one.conclusion]));
    return line;
  }

  function memoryWords({ subject, against, fits, memory }) {
    const whole = { subject: "fits where that does not", against: "does not fit where that does", neither: "neither fits" }[fits];
    if (whole) return whole;
    const amount = units.percent(Math.abs(memory));
    const words = amount === "0%" ? "the same peak memory" : `${amount} ${memory < 0 ? "less" : "more"} peak memory`;
    return `${words} (${units.bytes(subject.peak)} against ${units.bytes(against.peak)})`;
  }

  function timeWords({ time, noise }) {
    if (time === null) return ", step time not known";
    if (Math.abs(time) < noise) return ", its step about as long";
    return `, its step ${units.percent(Math.abs(time))} ${time < 0 ? "shorter" : "longer"}`;
  }

  function fill(rows, members, missing, quantity) {
    const sorted = [...rows].sort((one, two) => one.peak - two.peak || one.step_flops - two.step_flops), most = sorted.at(-1)?.peak ?? 1;
    const winner = [...members].sort((one, two) => one.peak - two.peak || one.step_flops - two.step_flops)[0];
    const cells = (one) => {
      const inside = members.some((member) => member.label === one.label);
      const least = members.length > 1 && one.label === winner?.label;
      const bar = make("span", { class: least ? "bar least" : "bar", style: `width: ${((100 * one.peak) / most).toFixed(1)}%` });
      const versus = winner && one.label !== winner.label ? one.peak / winner.peak - 1 : null;
      const sign = versus === null || units.percent(Math.abs(versus)) === "0%" ? "" : versus < 0 ? "−" : "+";
      const others = members.filter((member) => member.label !== one.label);
      const verdict = inside && others.length ? rule.compare(one, rule.bestOf(others)) : null;
      return [
        make("th", { scope: "row" }, code(one.label), ...(least ? [" ", make("span", { class: "badge pays" }, "least")] : [])),
        make("td", { class: "number", "data-value": one.peak }, units.mebibytes(one.peak), bar),
        make("td", { class: "number", "data-value": versus ?? "" }, versus === null ? "–" : sign + units.percent(Math.abs(versus))),
        make("td", { class: "number", "data-value": one.seconds ?? "" }, one.seconds === null ? "–" : units.seconds(one.seconds)),
        make("td", { class: "number", "data-value": one.step_flops }, units.whole(one.step_flops / 1e9)),
        make("td", {}, data.memory_bytes === null ? "not known" : rule.tooBig(one) ? "no" : "yes"),
        make("td", verdict ? { class: verdict.outcome, "data-against": verdict.against.label } : {}, verdict ? data.conclusions[verdict.conclusion] : "–"),
      ];
    };
    table.querySelector("tbody").replaceChildren(
      ...sorted.map((one) => make("tr", { "data-label": one.label, "data-quantity": quantity }, ...cells(one))),
      ...missing.map((one) => make("tr", {}, make("th", { scope: "row" }, code(one.label)), make("td", { colspan: "6" }, `not offered here: ${one.reason}`)))
    );
    table.hidden = false;
  }

  // A command that breaks between its words alone.
  const unbroken = (words) => words.flatMap((word) => [make("span", { class: word.length < 40 ? "word" : "" }, word), " "]);

  function commandWords(batch, one) {
    const quoted = (text) => (/^[\w./,=@%+:-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
    const settings = Object.entries(one.settings).filter(([name]) => name !== "rank");
    const words = ["check", "--model", data.model, "--batch", String(batch), "--method", one.method];
    if (one.rank !== null) words.push("--rank", String(one.rank));
    for (const [name, value] of settings) words.push("--set", `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
    if (form.dataset.text) words.push("--seq", String(one.seq));
    words.push("--targets", one.targets.join(","), "--target", data.target);
    if (one.precision !== "fp32") words.push("--precision", one.precision);
    if (one.checkpointing) words.push("--checkpointing");
    if (one.parallel) words.push("--parallel", one.parallel);
    for (const said of data.step) words.push("--step", said);
    const rest = data.noOption.length ? ` (for ${data.noOption.join(", ")}, which this scenario sets, it takes the defaults)` : "";
    return [`The same from the command line${rest}: `, make("code", {}, ...unbroken(["python", "-m", "refta_profiler", ...words.map(quoted)]))];
  }

  settle();
  form.addEventListener("input", (event) => {
    if (event.target.name in chosen) chosen[event.target.name] = event.target.value;
    settle();
    ask();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.closest(".control").hidden = false;
  ask();
})();
