(function () {
  "use strict";
  var list = document.getElementById("cards");
  var filter = document.getElementById("filter");
  var sort = document.getElementById("sort");
  var shown = document.getElementById("shown");
  if (!list) return;
  var cards = Array.prototype.slice.call(list.children);
  var texts = null;
  var noun = shown.textContent.replace(/^\d+ /, "");

  function plain(text) { return text.toLowerCase().replace(/\s+/g, " "); }

  function apply() {
    if (!texts) texts = cards.map(function (card) { return plain(card.textContent); });
    var wanted = plain(filter.value).trim();
    var count = 0;
    cards.forEach(function (card, index) {
      var hit = texts[index].indexOf(wanted) >= 0;
      card.hidden = !hit;
      if (hit) count += 1;
    });
    shown.textContent = count === cards.length ? count + " " + noun : count + " of " + cards.length + " " + noun;
  }

  function order() {
    var key = sort.value;
    cards.slice()
      .sort(function (a, b) { return Number(b.dataset[key]) - Number(a.dataset[key]) || Number(b.dataset.index) - Number(a.dataset.index); })
      .forEach(function (card) { list.appendChild(card); });
  }

  function arrive() {
    var card = /^#direction-\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
    if (!card) return;
    if (card.hidden) { filter.value = ""; apply(); }
    card.focus({ preventScroll: true });
    // Cards out of sight have guessed heights until they come near: arriving takes a few frames.
    var frames = 6;
    (function settle() {
      card.scrollIntoView();
      frames -= 1;
      if (frames) requestAnimationFrame(settle);
    })();
  }

  filter.addEventListener("input", apply);
  sort.addEventListener("change", order);
  document.getElementById("tools").addEventListener("submit", function (event) { event.preventDefault(); });
  document.addEventListener("keydown", function (event) {
    var typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing) { event.preventDefault(); filter.focus(); }
    if (event.key === "Escape" && event.target === filter) { filter.value = ""; apply(); }
  });
  window.addEventListener("hashchange", arrive);
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (one) { one.open = true; });
  });
  arrive();
})();
