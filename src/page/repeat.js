// Does something again and again, while somebody looks at the page: a tab that is hidden asks nothing.

/**
 * Calls `look` at once, and again after as many milliseconds as it resolves to; never again if it
 * resolves to nothing. Answers a function that ends it.
 */
export function whileSeen(look) {
  let timer;
  let [isLooking, isOver] = [false, false];

  async function turn() {
    clearTimeout(timer);
    if (isOver || isLooking || document.hidden) return;
    isLooking = true;
    const pause = await look();
    isLooking = false;
    if (pause === undefined) end();
    else if (!isOver) timer = setTimeout(turn, pause);
  }

  function end() {
    isOver = true;
    clearTimeout(timer);
    document.removeEventListener('visibilitychange', turn);
  }

  document.addEventListener('visibilitychange', turn);
  turn();
  return end;
}
