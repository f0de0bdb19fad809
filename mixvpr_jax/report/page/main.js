/* The page, from the top. */

import { setUpMap } from "./atlas.js";
import { renderConfidence, renderRecall } from "./curves.js";
import { showAwaited } from "./data.js";
import { setUpBar, setView } from "./filters.js";
import { renderHeadline, renderNote, renderTables } from "./headline.js";
import { bindDialogs, bindKeys, setUpHelp } from "./keys.js";
import { bindLarger } from "./larger.js";
import { bindList, measureRow, setAspect } from "./list.js";
import { setUpHeat } from "./rows.js";
import { goToHash } from "./state.js";

renderHeadline();
renderRecall();
renderConfidence();
setUpMap();
renderTables();
setAspect();
setUpBar();
renderNote();
setUpHeat();

bindList();
bindLarger();
bindDialogs();
setUpHelp();
bindKeys();

measureRow();
setView({});
goToHash();

// Pictures come after this script, block by block.
const arrivals = new MutationObserver(showAwaited);
arrivals.observe(document.body, { childList: true });
document.addEventListener("DOMContentLoaded", () => {
  arrivals.disconnect();
  showAwaited();
});
