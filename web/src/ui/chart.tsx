// A chart over time, drawn by uPlot, which is loaded when the first chart is shown. The same numbers stand in a table.
import { useEffect, useRef } from "preact/hooks";
import type uPlot from "uplot";
import { theme } from "./theme";

export interface Series {
  label: string;
  /** One value for each time; null where there is none. */
  values: readonly (number | null)[];
  spell: (value: number) => string;
}

interface ChartProps {
  label: string;
  /** Unix seconds, ascending. */
  times: readonly number[];
  series: readonly Series[];
  bars?: boolean;
  height?: number;
}

export function Chart({ label, times, series, bars = false, height = 200 }: ChartProps) {
  const place = useRef<HTMLDivElement>(null);
  const note = useRef<HTMLSpanElement>(null);
  const plot = useRef<uPlot | null>(null);
  useEffect(() => {
    let gone = false;
    const resize = new ResizeObserver(([entry]) => {
      if (entry && entry.contentRect.width > 0) plot.current?.setSize({ width: entry.contentRect.width, height });
    });
    void import("./uplot").then(({ UPlot }) => {
      const box = place.current;
      if (gone || !box) return;
      plot.current = new UPlot(options(UPlot, box, note, series, bars, height), dataOf(times, series), box);
      resize.observe(box);
    });
    const media = matchMedia("(prefers-color-scheme: dark)");
    const redraw = (): void => plot.current?.redraw();
    media.addEventListener("change", redraw);
    const unwatch = theme.subscribe(redraw);
    return () => {
      unwatch();
      gone = true;
      media.removeEventListener("change", redraw);
      resize.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);
  useEffect(() => plot.current?.setData(dataOf(times, series)), [times, series]);
  return (
    <figure class="chart">
      <figcaption>
        {label} <span class="at-cursor" ref={note} aria-hidden="true" />
      </figcaption>
      <div ref={place} role="img" aria-label={`${label}: ${summary(series)}`} />
    </figure>
  );
}

function dataOf(times: readonly number[], series: readonly Series[]): uPlot.AlignedData {
  return [[...times], ...series.map((one) => [...one.values])] as uPlot.AlignedData;
}

function summary(series: readonly Series[]): string {
  const told = series.map((one) => {
    const values = one.values.filter((value): value is number => value !== null);
    return values.length ? `${one.label} up to ${one.spell(Math.max(...values))}` : `${one.label}: nothing`;
  });
  return told.join("; ");
}

function options(
  UPlot: typeof uPlot,
  box: HTMLElement,
  note: { readonly current: HTMLElement | null },
  series: readonly Series[],
  bars: boolean,
  height: number,
): uPlot.Options {
  // Colours are asked for at each drawing, so that they follow the page's.
  const colour = (name: string) => () => colourOf(box, name);
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  const first = series[0];
  const paths = bars && UPlot.paths.bars ? { paths: UPlot.paths.bars({ size: [0.8, 60] }) } : {};
  return {
    width: box.clientWidth || 300,
    height,
    cursor: { y: false },
    legend: { show: false },
    hooks: { setCursor: [(shown) => note.current && (note.current.textContent = atCursor(shown, series))] },
    scales: { x: { range: (shown, min, max) => withRoom(shown, min, max, bars) }, y: { range: (_plot, _min, max) => [0, max > 0 ? max * 1.08 : 1] } },
    axes: [axis, { ...axis, size: 74, values: (_plot, ticks) => ticks.map((one) => (first ? first.spell(one) : "")) }],
    series: [
      {},
      ...series.map((one, place) => ({
        label: one.label,
        stroke: colour(`--chart-${place + 1}`),
        ...(bars ? { fill: colour(`--chart-${place + 1}`) } : { width: 2 }),
        points: { show: false },
        ...paths,
      })),
    ],
  };
}

/** A colour of the style sheet as it is now: light-dark() is decided only where a colour is used. */
function colourOf(box: HTMLElement, name: string): string {
  box.style.color = `var(${name})`;
  const { color } = getComputedStyle(box);
  box.style.color = "";
  return color;
}

/** What the pointer is at, in words. */
function atCursor(plot: uPlot, series: readonly Series[]): string {
  const { idx } = plot.cursor;
  const at = idx === null || idx === undefined ? undefined : plot.data[0][idx];
  if (at === undefined || idx === null || idx === undefined) return "";
  const values = series.map((one, place) => {
    const value = plot.data[place + 1]?.[idx];
    return value === null || value === undefined ? "" : one.spell(value);
  });
  return `${new Date(at * 1000).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" })}: ${values.join(", ")}`;
}

/** Bars need half a step at either end. */
function withRoom(plot: uPlot, min: number, max: number, bars: boolean): [number, number] {
  const times = plot.data[0];
  const half = bars && times.length > 1 ? ((times[1] ?? 0) - (times[0] ?? 0)) / 2 : 0;
  return [min - half, max + half];
}
