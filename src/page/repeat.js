// Does something again and again, while somebody looks at the page: a tab that is hidden asks nothing.

const AFTER_FAULT = 5_000; // milliseconds

/**
 * Calls `look` at once, and again after as many milliseconds as it resolves to; never again if it
 * resolves to nothing. If it throws, that is a fault of the page, and it is called again. Answers a
 * function that ends it.
 */
export function whileSeen(look) {
  let timer;
  let [isLooking, isOver] = [false, false];

  async function turn() {
    clearTimeout(timer);
    if (isOver || isLooking || document.hidden) return;
    isLooking = true;
    let pause = AFTER_FAULT;
    try {
      pause = await look();
    } catch (fault) {
      console.error(fault);
    }
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
