"use strict";
/* What a cut costs, from the problem that was solved: seconds and bytes of each stage.

   A cut is a list: the first block of every stage but stage 0. The sums are those of
   compiler/partition/load.py and memory.py. */
Object.assign(pipecut, (() => {

  /* {stages: [{load, bytes, capacity, recompute, fits}], bottleneck, slowest, broken}: seconds of
     the slowest stage, which it is, and in words what the cut breaks. Bytes are the device's. */
  function priceCut(problem, cut) {
    const stageOf = stagesOfBlocks(problem, cut);
    const held = stageBytes(problem, stageOf);
    const recompute = recomputing(problem, held);
    const loads = stageLoads(problem, stageOf, recompute);
    const used = deviceBytes(problem, held, recompute);
    const least = deviceBytes(problem, held, problem.devices.map(() => problem.recompute !== "never"));
    const bottleneck = Math.max(...loads);
    const stages = problem.devices.map(({ device, capacity }, index) => ({
      load: loads[index], bytes: used.get(device), capacity, recompute: recompute[index],
      fits: least.get(device) <= capacity,
    }));
    return { stages, bottleneck, slowest: loads.indexOf(bottleneck), broken: broken(problem, stageOf, stages) };
  }

  /* The cut that the plan has: blocks are numbered so that those of a stage stand together. */
  function plannedCut(problem) {
    return problem.devices.slice(1).map((_, stage) =>
      problem.blocks.findIndex((block) => block.stage > stage));
  }

  function stagesOfBlocks(problem, cut) {
    let stage = 0;
    return problem.blocks.map((_, block) => {
      while (stage < cut.length && block >= cut[stage]) stage += 1;
      return stage;
    });
  }

  function stageLoads(problem, stageOf, recompute) {
    const loads = problem.devices.map(() => 0);
    const compute = (item, stage) => {
      const kind = problem.devices[stage].kind;
      loads[stage] += (item.seconds[kind] || 0) + (recompute[stage] ? item.forward[kind] || 0 : 0);
    };
    problem.blocks.forEach((block, index) => compute(block, stageOf[index]));
    for (const shared of problem.shared) {
      for (const stage of stagesUsing(shared.users, stageOf)) compute(shared, stage);
    }
    for (const tensor of problem.tensors) {
      for (const { stage, link } of payers(problem, tensor, stageOf)) {
        loads[stage] += (tensor.forward + tensor.backward) / link.bandwidth
          + tensor.messages * link.latency;
      }
    }
    return loads;
  }

  function stagesUsing(users, stageOf) {
    return new Set(users.map((user) => stageOf[user]));
  }

  /* Who pays for a tensor, and over which link. */
  function payers(problem, tensor, stageOf) {
    const source = stageOf[tensor.source], users = stagesUsing(tensor.consumers, stageOf);
    if (problem.comm === "direct") {
      return copies(problem, source, users).map((stage) => ({ stage, link: problem.devices[stage] }));
    }
    const pairs = [], last = Math.max(source, ...users);
    for (let left = Math.min(source, ...users); left < last; left += 1) {
      const link = problem.devices[left];
      pairs.push({ stage: left, link }, { stage: left + 1, link });
    }
    return pairs;
  }

  /* The first stage of the device that makes a tensor, then that of each other that uses it. */
  function copies(problem, source, users) {
    const deviceOf = (stage) => problem.devices[stage].device;
    const receivers = new Set([...users].map(deviceOf));
    receivers.delete(deviceOf(source));
    if (!receivers.size) return [];
    return [deviceOf(source), ...receivers].map((device) =>
      problem.devices.findIndex((row) => row.device === device));
  }

  function stageBytes(problem, stageOf) {
    const held = problem.devices.map(() => ({ fixed: 0, saved: 0, received: 0, transient: 0 }));
    problem.blocks.forEach((block, index) => {
      const row = held[stageOf[index]];
      row.saved += block.saved;
      row.transient = Math.max(row.transient, block.transient);
    });
    for (const tensor of problem.tensors) {
      for (const stage of receiving(problem, tensor, stageOf)) held[stage].received += tensor.forward;
    }
    for (const shared of problem.shared) {
      for (const stage of stagesUsing(shared.users, stageOf)) {
        held[stage].fixed += shared.bytes;
        held[stage].saved += shared.saved;
      }
    }
    return held;
  }

  function receiving(problem, tensor, stageOf) {
    const source = stageOf[tensor.source], users = stagesUsing(tensor.consumers, stageOf);
    if (problem.comm === "direct") return copies(problem, source, users).slice(1);
    const stages = [], last = Math.max(source, ...users);
    for (let stage = Math.min(source, ...users); stage <= last; stage += 1) {
      if (stage !== source) stages.push(stage);
    }
    return stages;
  }

  /* Bytes of each device: what its stages hold together, and the largest of their transients. */
  function deviceBytes(problem, held, recompute) {
    const lasting = problem.devices.map(({ in_flight: inFlight }, stage) => {
      const { fixed, saved, received } = held[stage];
      const saving = recompute[stage] ? Math.min(1, inFlight) : inFlight;
      return fixed + saving * saved + inFlight * received;
    });
    const total = sums(problem, lasting), transient = new Map();
    problem.devices.forEach(({ device }, stage) => {
      transient.set(device, Math.max(transient.get(device) || 0, held[stage].transient));
    });
    for (const [device, bytes] of transient) total.set(device, total.get(device) + bytes);
    return total;
  }

  function recomputing(problem, held) {
    if (problem.recompute !== "auto") return problem.devices.map(() => problem.recompute === "always");
    const used = deviceBytes(problem, held, problem.devices.map(() => false));
    return problem.devices.map(({ device, capacity }) => used.get(device) > capacity);
  }

  function sums(problem, amounts) {
    const total = new Map();
    problem.devices.forEach(({ device }, stage) => {
      total.set(device, (total.get(device) || 0) + amounts[stage]);
    });
    return total;
  }

  function broken(problem, stageOf, stages) {
    const full = stages.flatMap((stage, index) => (stage.fits ? [] : [index]));
    const words = full.map((stage) =>
      `stage ${stage} needs ${pipecut.bytes(stages[stage].bytes)} of ${pipecut.bytes(stages[stage].capacity)}`);
    for (const { block, stage } of problem.pins) {
      if (stageOf[block] !== stage) words.push(`the job puts ${problem.blocks[block].name} on stage ${stage}`);
    }
    for (const { first, last } of problem.splits) {
      if (stageOf[first] >= stageOf[last]) {
        words.push(`the job cuts between ${problem.blocks[first].name} and ${problem.blocks[last].name}`);
      }
    }
    return words;
  }

  return { priceCut, plannedCut };
})());
