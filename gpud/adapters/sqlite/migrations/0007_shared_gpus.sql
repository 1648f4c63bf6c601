-- A lease may be a slice of a GPU's memory, and usage is weighed by the share it is.

ALTER TABLE worker ADD COLUMN gpu_slice_mib INTEGER NOT NULL DEFAULT 0 CHECK (gpu_slice_mib >= 0);
ALTER TABLE worker ADD COLUMN gpu_total_mib INTEGER NOT NULL DEFAULT 0 CHECK (gpu_total_mib >= 0);

ALTER TABLE gpu_lease ADD COLUMN memory_mib INTEGER CHECK (memory_mib > 0);
ALTER TABLE gpu_lease ADD COLUMN of_mib INTEGER CHECK (of_mib >= memory_mib);

ALTER TABLE usage_segment ADD COLUMN share_ppm INTEGER NOT NULL DEFAULT 1000000
    CHECK (share_ppm BETWEEN 0 AND 1000000);
ALTER TABLE usage_hour ADD COLUMN share_ppm INTEGER NOT NULL DEFAULT 1000000
    CHECK (share_ppm BETWEEN 0 AND 1000000);

DROP INDEX gpu_lease_open;

-- The promise that a GPU has one holder, or holders of slices that fit it together. The index
-- refuses a second whole holder, the trigger all else.
CREATE UNIQUE INDEX gpu_lease_whole ON gpu_lease (gpu_uuid) WHERE released_boot_ns IS NULL AND memory_mib IS NULL;
CREATE UNIQUE INDEX gpu_lease_open ON gpu_lease (gpu_uuid, worker_id) WHERE released_boot_ns IS NULL;

CREATE TRIGGER gpu_lease_fits BEFORE INSERT ON gpu_lease WHEN NEW.released_boot_ns IS NULL
BEGIN
    SELECT RAISE(ABORT, 'the GPU has other holders')
    WHERE EXISTS (
        SELECT 1 FROM gpu_lease AS held
        WHERE held.gpu_uuid = NEW.gpu_uuid AND held.released_boot_ns IS NULL
          AND (NEW.memory_mib IS NULL OR held.memory_mib IS NULL)
    );
    SELECT RAISE(ABORT, 'the GPU has not so much memory left')
    WHERE NEW.memory_mib IS NOT NULL AND NEW.memory_mib + (
        SELECT ifnull(sum(held.memory_mib), 0) FROM gpu_lease AS held
        WHERE held.gpu_uuid = NEW.gpu_uuid AND held.released_boot_ns IS NULL
    ) > ifnull(NEW.of_mib, 0);
END;

CREATE TRIGGER gpu_lease_stays BEFORE UPDATE ON gpu_lease
WHEN NEW.gpu_uuid <> OLD.gpu_uuid OR NEW.memory_mib IS NOT OLD.memory_mib OR NEW.of_mib IS NOT OLD.of_mib
  OR (NEW.released_boot_ns IS NULL AND OLD.released_boot_ns IS NOT NULL)
BEGIN
    SELECT RAISE(ABORT, 'a lease changes only by being released');
END;
