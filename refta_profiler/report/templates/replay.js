// A step replayed at a batch, as predict/replay.py, predict/allocator.py and predict/roofline.py do it; tests hold the two to the same bytes.
const replay = (() => {
  const KIB = 1024, MIB = 1024 * KIB;
  const SMALL = MIB, SMALL_SEGMENT = 2 * MIB, LARGE_SEGMENT = 20 * MIB, MIN_LARGE = 10 * MIB, ROUND = 2 * MIB, MIN_BLOCK = 512;

  class PlainMemory {
    allocated = 0;
    peakReserved = null;
    allocate(size) { this.allocated += size; return { size }; }
    release(block) { this.allocated -= block.size; }
    emptyCache() {}
  }

  class CachingAllocator {
    allocated = 0;
    reserved = 0;
    peakReserved = 0;
    address = 0;
    pools = { true: [], false: [] };

    allocate(bytes) {
      const size = Math.max(MIN_BLOCK, Math.ceil(bytes / MIN_BLOCK) * MIN_BLOCK);
      const pool = this.pools[size <= SMALL], place = this.bestFit(pool, size);
      const block = place < pool.length ? pool.splice(place, 1)[0] : this.newSegment(size);
      this.split(block, size);
      block.free = false;
      this.allocated += block.size;
      return block;
    }

    bestFit(pool, size) { return lowerBound(pool, size, -1); }

    // gives back the segments of which nothing is used
    emptyCache() {
      for (const small of [true, false]) {
        const whole = this.pools[small].filter((block) => !block.before && !block.after);
        for (const block of whole) this.reserved -= block.size;
        this.pools[small] = this.pools[small].filter((block) => !whole.includes(block));
      }
      this.peakReserved = this.reserved;
    }

    release(freed) {
      let block = freed;
      this.allocated -= block.size;
      block.free = true;
      for (const neighbour of [block.before, block.after]) {
        if (!neighbour?.free) continue;
        this.remove(neighbour);
        block = merged(block, neighbour);
      }
      this.insert(block);
    }

    newSegment(size) {
      const whole = size <= SMALL ? SMALL_SEGMENT : size < MIN_LARGE ? LARGE_SEGMENT : Math.ceil(size / ROUND) * ROUND;
      const block = { size: whole, address: this.address, small: size <= SMALL };
      this.address += whole + LARGE_SEGMENT; // segments never touch
      this.reserve(whole);
      return block;
    }

    reserve(bytes) {
      this.reserved += bytes;
      this.peakReserved = Math.max(this.peakReserved, this.reserved);
    }

    splitsOff(remaining, small) { return small ? remaining >= MIN_BLOCK : remaining > SMALL; }

    split(block, size) {
      const remaining = block.size - size;
      if (!this.splitsOff(remaining, block.small)) return;
      const rest = { size: remaining, address: block.address + size, small: block.small, free: true, before: block, after: block.after };
      if (block.after) block.after.before = rest;
      block.after = rest;
      block.size = size;
      this.insert(rest);
    }

    insert(block) {
      const pool = this.pools[block.small];
      pool.splice(lowerBound(pool, block.size, block.address), 0, block);
    }

    remove(block) {
      const pool = this.pools[block.small];
      pool.splice(lowerBound(pool, block.size, block.address), 1);
    }
  }

  class ExpandableAllocator extends CachingAllocator {
    starts = {};

    splitsOff(remaining) { return remaining >= MIN_BLOCK; }

    emptyCache() { this.peakReserved = this.reserved; }

    // the block at the segment's end, which could grow, only where no other fits
    bestFit(pool, size) {
      const place = lowerBound(pool, size, -1);
      return place + 1 < pool.length && !pool[place].after ? place + 1 : place;
    }

    newSegment(size) {
      const small = size <= SMALL;
      let last = this.starts[small];
      while (last?.after) last = last.after;
      const held = last?.free ? last.size : 0, step = small ? SMALL_SEGMENT : LARGE_SEGMENT;
      const mapped = Math.ceil((size - held) / step) * step;
      this.reserve(mapped);
      if (held) {
        this.remove(last);
        last.size += mapped;
        return last;
      }
      const block = { size: mapped, address: last ? last.address + last.size : 0, small, before: last };
      if (last) last.after = block;
      else this.starts[small] = block;
      return block;
    }
  }

  const MEMORIES = { plain: PlainMemory, default: CachingAllocator, expandable_segments: ExpandableAllocator };

  function lowerBound(pool, size, address) {
    let low = 0, high = pool.length;
    while (low < high) {
      const middle = (low + high) >> 1, one = pool[middle];
      if (one.size < size || (one.size === size && one.address < address)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function merged(block, neighbour) {
    const [first, second] = neighbour.address < block.address ? [neighbour, block] : [block, neighbour];
    first.size += second.size;
    first.after = second.after;
    if (second.after) second.after.before = first;
    first.free = true;
    return first;
  }

  // The peaks of the second of two steps: the first brings the optimizer's state, which is what it does not free.
  function peaks(variant, step, batch) {
    const memory = new MEMORIES[variant.memory]();
    const sizes = step.sizes.map(([constant, each]) => constant + each * batch);
    const gone = [], sums = scratch(variant.scratch, step.row_sums ?? [], batch);
    for (const size of step.initial) {
      const block = memory.allocate(sizes[size < 0 ? -1 - size : size]);
      if (size < 0) gone.push(block);
    }
    for (const block of gone) memory.release(block);
    memory.emptyCache();
    const firstPass = pass(memory, sizes, step.events, null, (index) => {
      for (const [places, bytes] of [[step.biased, variant.biased_workspace_bytes], [step.products, variant.workspace_bytes]])
        if (bytes) for (const place of places ?? []) if (place === index) memory.allocate(bytes);
    }, sums);
    let peak = memory.allocated;
    pass(memory, sizes, step.events, firstPass, () => { peak = Math.max(peak, memory.allocated); }, sums);
    return { allocated: Math.max(peak, memory.allocated), reserved: memory.peakReserved };
  }

  // By place: what each of the sums over rows takes and frees at once, as row_sums.py has it.
  function scratch(threads, sums, batch) {
    const found = new Map();
    for (const [place, inputs, outputs, itemsize, vector] of threads ? sums : []) {
      const [added, wanted] = [inputs, outputs].map(([constant, slope]) => constant + slope * batch);
      const taken = partialSums(threads, added, wanted, itemsize, vector);
      if (taken) found.set(place, [...(found.get(place) ?? []), taken]);
    }
    return found;
  }

  function partialSums([multiprocessors, resident], inputs, outputs, itemsize, vector) {
    while ((inputs * outputs - 1) * itemsize + 1 > 2 ** 31 - 1) inputs = Math.ceil(inputs / 2);
    const most = 512 / vector, power = (size) => 2 ** Math.floor(Math.log2(Math.max(size, 1)));
    const across = Math.min(power(Math.floor(outputs / vector)), most), along = Math.min(power(inputs), most);
    const height = Math.min(along, Math.floor(most / Math.min(across, 32))), width = Math.min(across, Math.floor(most / height));
    if (inputs < Math.min(height * 16, 256)) return null;
    const each = Math.ceil(inputs / height), grid = Math.ceil(Math.floor(outputs / vector) / width);
    const target = multiprocessors * Math.floor(resident / (width * height));
    if (each < 256 || grid > target) return null;
    const blocks = Math.max(Math.min(Math.ceil(target / grid), Math.ceil(each / 16)), Math.ceil(each / 256));
    return blocks < 2 ? null : [(itemsize === 8 ? 8 : 4) * outputs * blocks * width * vector, 4 * grid];
  }

  // One pass over the events. `lasting` says, by allocation, what outlived the first step and is there already.
  function pass(memory, sizes, events, lasting, before, sums) {
    const live = [], outlives = new Set();
    let count = 0;
    function add(index) {
      for (const taken of sums.get(index) ?? []) {
        const blocks = taken.map((size) => memory.allocate(size));
        before(-1);  // nothing is taken there; the second pass looks at what is live
        for (const block of blocks.reverse()) memory.release(block);
      }
    }
    events.forEach((event, index) => {
      before(index);
      add(index);
      if (event < 0) {
        const [{ block, skipped }] = live.splice(live.length + event, 1);
        if (!skipped) memory.release(block);
      } else {
        const skipped = lasting?.has(count) ?? false;
        live.push({ number: count, skipped, block: skipped ? null : memory.allocate(sizes[event]) });
        count += 1;
      }
    });
    add(events.length);
    for (const { number } of live) outlives.add(number);
    return outlives;
  }

  // FLOP/s of a product of that many FLOPs, between the measured ones on the straight line over their logarithm.
  function rate(points, flops) {
    const below = points.filter(([size]) => size <= flops), above = points.filter(([size]) => size > flops);
    const [low, slow] = below.at(-1) ?? points[0], [high, fast] = above[0] ?? points.at(-1);
    if (high <= low || flops <= low) return flops <= low || high <= low ? slow : fast;
    return slow + ((fast - slow) * Math.log(flops / low)) / Math.log(high / low);
  }

  // What a product's kernel reaches of the FLOP/s of full waves of tiles (waves.py); 1 where that is not known.
  function filled(rates, dtype, product, flops, batch) {
    if (!product || !rates.multiprocessors || !rates.tiles?.[dtype]) return 1;
    const sizes = product.map(([constant, slope]) => constant + slope * batch);
    const columns = sizes.pop(), rows = sizes.pop(), many = sizes.reduce((one, other) => one * other, 1);
    const inner = flops / (2 * many * rows * columns), { multiprocessors } = rates;
    return Math.max(...rates.tiles[dtype].map(([side, reached]) => {
      const tiles = many * Math.ceil(rows / side) * Math.ceil(columns / side);
      const parts = Math.max(1, Math.min(Math.floor(inner / rates.part), Math.floor(multiprocessors / tiles)));
      const waves = Math.ceil((tiles * parts) / multiprocessors);
      return (reached * many * (rows / side) * (columns / side) * parts) / (waves * multiprocessors);
    }));
  }

  // Seconds of a step by the roofline, of them those that launches bound; null where a rate is missing.
  function time(rates, step, batch) {
    if (!rates) return null;
    const phases = {};
    for (const [phase, dtype, flopsLine, bytesLine, count, product, reaches] of step.operations) {
      const flops = flopsLine[0] + flopsLine[1] * batch, bytes = bytesLine[0] + bytesLine[1] * batch;
      if (flops && !rates.matmul_flops[dtype]) return null;
      const found = (phases[phase] ??= { host: 0, device: 0, launch: 0 });
      found.host += count * (bytes ? rates.host_seconds[phase] ?? 0 : rates.view_seconds);
      const [ofFlops, ofBandwidth] = (rates.overlaps && reaches) || [1, 1];
      if ((!flops && !bytes) || !ofBandwidth) continue; // a view, or what the host does by itself
      const reached = flops ? rate(rates.matmul_flops[dtype], flops) * filled(rates, dtype, product, flops, batch) * ofFlops : 1;
      const compute = flops / reached, moved = bytes / (rates.bandwidth * ofBandwidth);
      const longest = Math.max(compute, moved, rates.kernel_seconds);
      found.device += count * longest;
      if (longest !== compute && longest !== moved) found.launch += count * longest;
    }
    let seconds = 0, launch = 0, issued = 0; // seconds: when the device has done the phases so far; issued: when the host has issued them
    for (const found of Object.values(phases)) {
      issued += found.host;
      const waiting = rates.overlaps ? Math.max(issued - seconds - found.device, 0) : found.host;
      seconds += found.device + waiting;
      launch += found.launch + waiting;
    }
    return { seconds, launch };
  }

  // What a variant's step needs at a batch.
  return (variant, batch) => {
    const step = batch === 1 ? variant.first : variant.following;
    const flops = step.step_flops[0] + step.step_flops[1] * batch;
    return { ...peaks(variant, step, batch), step_flops: flops, time: time(variant.rates, step, batch) };
  };
})();
