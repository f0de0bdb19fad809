/* The page, from the top. */

import { setUpMap } from "./atlas.js";
import { renderConfidence } from "./confidence.js";
import { renderCurve } from "./curve.js";
import { byId, showAwaited } from "./data.js";
import {
  bindFilters, renderNote, setUpChoices, setUpColumns, setUpSorts, setView,
} from "./filters.js";
import { renderHeadline, renderTables } from "./headline.js";
import { bindDialogs, bindKeys, setUpHelp } from "./keys.js";
import { bindLarger } from "./larger.js";
import { bindList, measureRow, setAspect } from "./list.js";
import { HAS_HEAT, toggleHeat } from "./rows.js";
import { goToHash } from "./state.js";

renderHeadline();
renderCurve();
renderConfidence();
setUpMap();
renderTables();
setAspect();
setUpColumns();
setUpChoices();
setUpSorts();
renderNote();
byId("show-heat").hidden = !HAS_HEAT;
byId("show-heat").addEventListener("click", toggleHeat);

bindList();
bindFilters();
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
