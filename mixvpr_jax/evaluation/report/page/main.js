/* The page, from the top. */

renderHeadline();
renderCurve();
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
choose(EVERYTHING);
goToHash();

// Pictures come after this script, block by block.
const arrivals = new MutationObserver(showAwaited);
arrivals.observe(document.body, { childList: true });
document.addEventListener("DOMContentLoaded", () => {
  arrivals.disconnect();
  showAwaited();
});
