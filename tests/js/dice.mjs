/** Numbers below `most` that look random, the same for each seed. */
export function dice(seed) {
  let state = Math.imul(seed + 1, 2_654_435_761) >>> 0;
  return (most) => {
    state = (Math.imul(state ^ (state >>> 15), 2_246_822_519) + 374_761_393) >>> 0;
    return Math.floor((state / 2 ** 32) * most);
  };
}
