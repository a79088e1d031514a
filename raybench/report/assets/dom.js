// Small helpers, and what the other scripts share.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);
const isTyping = (target) => /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName) && target.type !== "range";
const hasModifier = (event) => event.ctrlKey || event.metaKey || event.altKey;

// The one line that screen readers follow.
function say(text) {
  one("#live").textContent = text;
}
