/* The scripts of the report's page: npx eslint mixvpr_jax/report/page */

const BROWSER = [
  "addEventListener", "atob", "Blob", "cancelAnimationFrame", "devicePixelRatio", "document",
  "getComputedStyle", "history", "location", "matchMedia", "requestAnimationFrame",
  "ResizeObserver", "setTimeout", "URL", "URLSearchParams",
];

export default [{
  files: ["mixvpr_jax/report/page/*.js"],
  languageOptions: { globals: Object.fromEntries(BROWSER.map((name) => [name, "readonly"])) },
  rules: {
    "eqeqeq": "error",
    "no-eval": "error",
    "no-implied-eval": "error",
    "no-undef": "error",
    "no-unused-vars": "error",
    "no-var": "error",
    "prefer-const": "error",
  },
}];
