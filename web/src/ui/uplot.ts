// uPlot with its style, in a file of their own.
import "uplot/dist/uPlot.min.css";

export { default as UPlot } from "uplot";
