-- What a start was for.

ALTER TABLE cold_start ADD COLUMN wanted TEXT NOT NULL DEFAULT '{}' CHECK (wanted LIKE '{%}');
